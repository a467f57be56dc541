"""Where clients run. The only room that knows that there is more than one process."""

from fedlit.fleet.fleet import Fleet
from fedlit.fleet.placement import pack, team_size
from fedlit.fleet.starting import open_fabric
from fedlit.fleet.team import Team
from fedlit.fleet.workbench import Workbench
from fedlit.fleet.world import World

__all__ = ["Fleet", "Team", "Workbench", "World", "open_fabric", "pack", "team_size"]
