"""A back end from outside, as a user would write one."""

from dataclasses import dataclass

from support.settings import setting


@dataclass(frozen=True)
class Settings:
    level: int = setting(200, "grey level", least=0, most=255)


class Grey:
    """Paints the mask grey."""

    def __init__(self, name, settings, db_root, split):
        self.name, self.version, self.settings = name, "1", settings
        self.details = {"params": {"level": settings.level}}

    @staticmethod
    def defaults(name):
        return Settings()

    def fill(self, request):
        pictures = []
        for _ in request.prompts:
            picture = request.rgb.copy()
            picture[request.mask] = self.settings.level
            pictures.append(picture)
        return pictures


class NotOne:
    pass
