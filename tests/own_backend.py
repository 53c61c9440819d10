"""A back end from outside, as a user would write one."""

from dataclasses import dataclass

from support.settings import setting


@dataclass(frozen=True)
class GreySettings:
    level: int = setting(200, "grey level", min=0, max=255)


class Grey:
    """Paints the mask grey."""

    def __init__(self, name, settings, db_root, split):
        self.name, self.version, self.settings = name, "1", settings
        self.details = {"params": {"level": settings.level}}

    @staticmethod
    def defaults(name):
        return GreySettings()

    def fill(self, request):
        images = []
        for _ in request.prompts:
            image = request.rgb.copy()
            image[request.mask] = self.settings.level
            images.append(image)
        return images


class NotOne:
    pass
