"""Makes training visible: paths of optimizers on known surfaces, and the landscape of a model's loss.

It is no part of `import onepass`: a training script does not pay for it. HTML pages need the extra ``visualize``.
"""

from onepass.visualize._landscape import landscape
from onepass.visualize._paths import Trajectories
from onepass.visualize._scene import Landscape
from onepass.visualize._trajectories import trajectories
from onepass.visualize._trajectory import Trajectory
from onepass.visualize.surfaces import SURFACES, Surface, surface

__all__ = [
    "SURFACES",
    "Landscape",
    "Surface",
    "Trajectories",
    "Trajectory",
    "landscape",
    "surface",
    "trajectories",
]
