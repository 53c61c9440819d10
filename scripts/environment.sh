# Sourced by the other shell scripts: makes .venv and installs into it, once for each content of the lists.

install_requirements() {  # install_requirements FILE...: requirement files, relative to the project root
  if [ ! -x .venv/bin/python ]; then
    local python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || {
      echo "error: Python 3.10 or newer is needed ('$python' is older or missing); set PYTHON=/path/to/python3" >&2
      return 2
    }
    echo "making .venv with $("$python" --version)"
    "$python" -m venv .venv
  fi
  local stamp=.venv/.installed list
  for list in "$@"; do
    if ! cmp -s "$list" "$stamp-$list"; then
      echo "installing $list"
      .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$list"
      cp "$list" "$stamp-$list"
    fi
  done
}
