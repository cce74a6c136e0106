"""What a machine was measured to do: replaces the rate card's guesses for the device it was measured on.

`nanbeige price --calibrate` measures it (`megatron.throughput`) and keeps it beside the store's cache. A pass of a
transformer takes  layers * pass_seconds + operations / rate  on a device: both are fitted to real steps.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.price.ranges import Range

FILE_NAME = "calibration.json"
SPREAD = 0.2
"""Bounds given to a measured value: a machine is not always equally fast. ours"""


class Fit(BaseModel):
    """One kind of pass over a model on one device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flops_per_second: float = Field(gt=0)
    pass_seconds: float = Field(ge=0, description="Of one layer in one pass.")

    def seconds(self, flops: float, layer_passes: float) -> float:
        """Return what the fit expects of that many operations in that many passes of a layer."""
        return flops / self.flops_per_second + layer_passes * self.pass_seconds


class Calibration(BaseModel):
    """What was measured, on which device of the rate card, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    dtype: str = Field(description="Precision of the measured model; work at another one keeps the card's figures.")
    machine: str
    measured: str = Field(description="ISO time.")
    matmul_flops_per_second: float = Field(gt=0, description="Of a large fp32 product: what the machine could do.")
    training: Fit
    reading: Fit
    decoding: Fit | None = Field(default=None, description="None where no engine of this machine was measured.")


def spread(value: float) -> Range:
    """Return a measured value with its bounds."""
    return Range(value * (1 - SPREAD), value, value * (1 + SPREAD))


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write the file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(calibration.model_dump_json(indent=1) + "\n")
    partial.replace(path)


def load_calibration(path: Path) -> Calibration | None:
    """Read the file; None when there is none. Raises RecipeError when it is damaged."""
    try:
        return Calibration.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path} is no calibration ({str(error).splitlines()[0]}). Delete it, or measure again with "
            "`nanbeige price --calibrate`."
        ) from error
