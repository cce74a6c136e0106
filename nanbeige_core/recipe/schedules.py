"""Check the `schedules:` of a recipe file when it is loaded, so that no nightly run fails to start unseen."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from nanbeige_core.errors import RecipeError, nearest
from nanbeige_core.recipe.schema import RecipeFile, ScheduleEntry


def check_schedules(file: RecipeFile, path: Path) -> None:
    """Raise RecipeError for a cron line that is malformed or never fires, and for an unknown sweep, profile or zone."""
    for name, entry in file.schedules.items():
        place = f"{path}: schedules.{name}"
        if bool(entry.sweep) == bool(entry.profile):
            raise RecipeError(f"{place} must name one of the two: a sweep, or a profile for the full recipe")
        if entry.sweep and entry.sweep not in file.sweeps:
            raise RecipeError(f"{place}.sweep is {entry.sweep!r}; {nearest(entry.sweep, file.sweeps)}")
        if entry.profile and entry.profile not in file.profiles:
            raise RecipeError(f"{place}.profile is {entry.profile!r}; {nearest(entry.profile, file.profiles)}")
        next_firing(entry, place)


def next_firing(entry: ScheduleEntry, place: str) -> datetime:
    """Return when a schedule fires next; raise RecipeError when its cron line cannot be read or never fires."""
    try:
        zone = ZoneInfo(entry.timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise RecipeError(
            f"{place}.timezone is {entry.timezone!r}, which is no time zone; use a name such as UTC or Europe/Berlin"
        ) from error
    if len(entry.cron.split()) != 5:
        raise RecipeError(
            f"{place}.cron is {entry.cron!r}; five fields are needed: minute, hour, day of month, month, day of week. "
            "For example '0 2 * * *': every night at two"
        )
    try:
        return next(CronSim(entry.cron, datetime.now(UTC).astimezone(zone)))
    except (CronSimError, StopIteration) as error:
        raise RecipeError(
            f"{place}.cron is {entry.cron!r}, which never fires ({error or 'no such day'}). The fields are minute "
            "(0-59), hour (0-23), day of month (1-31), month (1-12), day of week (0-7). For example '0 2 * * *': "
            "every night at two"
        ) from error
