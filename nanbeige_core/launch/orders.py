"""What a planned stage is executed from."""

from nanbeige_core.launch.execute import Order
from nanbeige_core.recipe.plan import PlannedStage


def make_order(planned: PlannedStage) -> Order:
    """Return the plain data from which a stage is executed."""
    return Order(
        stage=planned.name,
        uses=planned.stage.spec.uses,
        identity=planned.identity,
        fingerprint=planned.fingerprint,
        config=planned.stage.config.model_dump(mode="json"),
        runtime=planned.stage.runtime.model_dump(mode="json"),
        forced=planned.forced,
    )
