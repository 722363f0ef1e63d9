"""The route of vLLM's server that lists the vectors (entry point `vllm.endpoint_plugins`)."""

from typing import Any

from concept_das.serving.catalogue import Catalogue


class VectorsEndpoint:
    """`GET /v1/vectors`: the vectors that requests can name."""

    name = "concept_das"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.catalogue = Catalogue({})

    def attach_router(self, app: Any) -> None:
        """Put the route into the server's application."""

        def vectors() -> dict[str, Any]:
            return {"object": "list", "data": self.catalogue.described()}

        app.get("/v1/vectors")(vectors)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Read the vectors that the engine was started with."""
        self.catalogue = Catalogue.of(args.additional_config)
