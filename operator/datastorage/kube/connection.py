"""Where the API server is and who we are: one configuration for the client and for Kopf's watches."""

import os
from typing import Final

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from datastorage.errors import ConfigurationError

USER_AGENT: Final = "kubernaut-datastorage"


async def load_configuration() -> Configuration:
    """Load the pod's ServiceAccount; outside of a pod, or where KUBECONFIG is set, the kubeconfig.

    Raises ConfigurationError when neither is there.
    """
    configuration = Configuration()
    # Else aiohttp looks for a netrc file and for proxies before each request, through a thread: a third of a
    # request's CPU time. A proxy that the kubeconfig names is still used.
    configuration.client_session_kwargs = {"trust_env": False}
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
    try:
        if in_pod:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(client_configuration=configuration, persist_config=False)
    except (config.ConfigException, OSError) as error:
        raise ConfigurationError(
            f"no access to a cluster: set KUBECONFIG, or run in a pod with a ServiceAccount ({error})"
        ) from error
    return configuration


def api_client(configuration: Configuration) -> ApiClient:
    """Return a client for single requests."""
    client = ApiClient(configuration)
    client.user_agent = USER_AGENT
    return client


def watch_session(client: ApiClient, *middlewares: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
    """Return a session for Kopf that authenticates every request anew, within the other middlewares.

    Kopf's own session keeps the token that it began with; a pod's token is renewed every hour.
    """

    async def authenticate(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        headers: dict[str, str] = {}
        await client.update_params_for_auth(headers, [], ["BearerToken"], "", request.method, None)
        request.headers.update(headers)
        return await handler(request)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=client.rest_client.ssl_context),
        headers={"User-Agent": USER_AGENT},
        middlewares=(*middlewares, authenticate),
    )
