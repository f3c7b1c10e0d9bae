"""Where the API server is and who we are: one configuration for the client and for Kopf's watches."""

import asyncio
import os
import time
from typing import Final

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from datastorage.errors import ConfigurationError
from datastorage.kube.watchmonitor import WatchMonitor

USER_AGENT: Final = "kubernaut-datastorage"
# A watch that the server closes at once is asked for again at once by Kopf. This keeps such a loop at
# one request a second, whatever closes it.
_WATCH_INTERVAL_SECONDS: Final = 1.0


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


def watch_session(client: ApiClient, monitor: WatchMonitor) -> aiohttp.ClientSession:
    """Return a session for Kopf that authenticates every request anew, paces watches and reports on them.

    Kopf's own session keeps the token that it began with; a pod's token is renewed every hour.
    """
    last_watch: dict[str, float] = {}

    async def middleware(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        monitor.asked()
        headers: dict[str, str] = {}
        await client.update_params_for_auth(headers, [], ["BearerToken"], "", request.method, None)
        request.headers.update(headers)
        if request.url.query.get("watch") != "true":
            return await handler(request)
        path = request.url.path
        pause = last_watch.get(path, 0.0) + _WATCH_INTERVAL_SECONDS - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        last_watch[path] = time.monotonic()
        try:
            response = await handler(request)
        except (aiohttp.ClientError, OSError, TimeoutError):
            monitor.closed(path)
            raise
        if response.ok:
            monitor.opened(path)
        else:
            monitor.closed(path)
        return response

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=client.rest_client.ssl_context),
        headers={"User-Agent": USER_AGENT},
        middlewares=(middleware,),
    )
