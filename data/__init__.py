import os

# Broken pictures are named in one line of ours; OpenCV reads this when it is first imported.
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
