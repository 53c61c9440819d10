"""A local page to play with a model: click in a scene, and an object stands there.

`studio.py` is what all sessions share (models, scenes, what paints), `state.py` what a session holds,
`actions.py` everything that can be done to it, as functions that need no browser; `uploads.py` is what a
person brings along, `images.py` what is seen, `files.py` what is taken home. `page.py` alone knows gradio.
The program is `scripts.demo`.
"""
