"""aiortc as one end of a call, driven by agent.rs: reads one JSON command per line, and writes one JSON
answer per line."""

import asyncio
import json
import sys

from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.mediastreams import MediaStreamError


def only_relayed(sdp):
    """aiortc has no iceTransportPolicy, so this removes every candidate that is not relayed."""
    lines = sdp.split("\r\n")
    return "\r\n".join(line for line in lines if not line.startswith("a=candidate") or " typ relay" in line)


class Agent:
    def __init__(self):
        self.connection = None
        self.frames = 0
        self.tasks = []

    async def count(self, track):
        try:
            while True:
                await track.recv()
                self.frames += 1
        except MediaStreamError:
            pass

    async def offer(self, configuration):
        servers = [
            RTCIceServer(urls=server["urls"], username=server["username"], credential=server["credential"])
            for server in configuration["iceServers"]
        ]
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self.connection.addTrack(VideoStreamTrack())
        self.connection.on("track", lambda track: self.tasks.append(asyncio.ensure_future(self.count(track))))
        # Gathers before it returns.
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return only_relayed(self.connection.localDescription.sdp)

    async def accept(self, sdp):
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp=sdp, type="answer"))

    async def sample(self):
        return {"state": self.connection.connectionState, "framesDecoded": self.frames}


async def main():
    agent = Agent()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = {"ok": await getattr(agent, command["call"])(*command["arguments"])}
        except Exception as error:  # told to the test, which ends
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


asyncio.run(main())
