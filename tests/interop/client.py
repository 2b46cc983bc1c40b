"""Runs steps with nats.py, and prints the result of each step as one JSON list.

Arguments: the server's URL, the bucket, and a JSON list of steps, each `[verb, argument...]`.
A step that fails gives `{"error": <the name of the exception>}`.
"""

import asyncio
import json
import sys

import nats
from nats.js import api


def entry(e):
    value = e.value.decode() if e.value else ""
    return {"key": e.key, "value": value, "revision": e.revision, "operation": e.operation}


async def seen(watcher):
    """Returns the entries of a watcher until it has caught up."""
    entries = []
    while (e := await watcher.updates()) is not None:
        entries.append(entry(e))
    await watcher.stop()
    return entries


class Client:
    def __init__(self, js, bucket):
        self.js, self.bucket, self.kv = js, bucket, None

    async def make(self, settings):
        if "storage" in settings:
            settings["storage"] = api.StorageType(settings["storage"])
        if "republish" in settings:
            settings["republish"] = api.RePublish(**settings["republish"])
        self.kv = await self.js.create_key_value(bucket=self.bucket, **settings)

    async def put(self, key, value):
        return await self.kv.put(key, value.encode())

    async def create(self, key, value, ttl=None):
        return await self.kv.create(key, value.encode(), msg_ttl=ttl)

    async def update(self, key, value, last):
        return await self.kv.update(key, value.encode(), last=last)

    async def delete(self, key, last=None):
        return await self.kv.delete(key, last=last)

    async def purge(self, key):
        return await self.kv.purge(key)

    async def get(self, key, revision=None):
        return entry(await self.kv.get(key, revision))

    async def get_json(self, key):
        return json.loads((await self.kv.get(key)).value)

    async def history(self, key):
        return [entry(e) for e in await self.kv.history(key)]

    async def keys(self):
        return sorted(await self.kv.keys())

    async def watch(self, keys):
        return await seen(await self.kv.watch(keys))

    async def headers(self, revision):
        message = await self.js.get_msg(f"KV_{self.bucket}", seq=revision)
        return dict(message.headers or {})

    async def status(self):
        status = await self.kv.status()
        config = status.stream_info.config
        return {
            "values": status.values,
            "history": status.history,
            "ttl": status.ttl,
            "marker_ttl": status.marker_ttl,
            "description": config.description,
            "max_value_size": config.max_msg_size,
            "max_bytes": config.max_bytes,
            "storage": config.storage,
            "replicas": config.num_replicas,
            "metadata": config.metadata,
            "direct": config.allow_direct,
        }


async def main(url, bucket, steps):
    nc = await nats.connect(url)
    client = Client(nc.jetstream(), bucket)
    results = []
    for verb, *arguments in json.loads(steps):
        try:
            if client.kv is None and verb != "make":
                client.kv = await client.js.key_value(bucket)
            results.append(await getattr(client, verb)(*arguments))
        except nats.errors.Error as error:
            results.append({"error": type(error).__name__})
    print(json.dumps(results))
    await nc.close()


asyncio.run(main(*sys.argv[1:]))
