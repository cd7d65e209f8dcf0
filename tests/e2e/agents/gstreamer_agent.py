"""GStreamer's webrtcbin (libnice) as one end of a call, driven by agent.rs: reads one JSON command per line,
and writes one JSON answer per line."""

import json
import sys
import threading
import time
from urllib.parse import quote

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

SOURCE = """
webrtcbin name=webrtc bundle-policy=max-bundle
videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=30/1
  ! vp8enc deadline=1 keyframe-max-dist=30 ! rtpvp8pay
  ! application/x-rtp,media=video,encoding-name=VP8,payload=96 ! webrtc.
"""
GATHERING_LIMIT = 15.0


def turn_uri(uri, username, password):
    """`turn:host:port?transport=tcp` in webrtcbin's notation: `turn://user:password@host:port?transport=tcp`."""
    scheme, rest = uri.split(":", 1)
    return f"{scheme}://{quote(username, safe='')}:{quote(password, safe='')}@{rest}"


class Agent:
    def __init__(self):
        self.pipeline = None
        self.webrtc = None
        self.frames = 0

    def offer(self, configuration):
        self.pipeline = Gst.parse_launch(SOURCE)
        self.webrtc = self.pipeline.get_by_name("webrtc")
        self.webrtc.set_property("ice-transport-policy", GstWebRTC.WebRTCICETransportPolicy.RELAY)
        for server in configuration["iceServers"]:
            for uri in server["urls"]:
                self.webrtc.emit("add-turn-server", turn_uri(uri, server["username"], server["credential"]))
        self.webrtc.connect("pad-added", self.on_pad)
        negotiation = threading.Event()
        self.webrtc.connect("on-negotiation-needed", lambda _: negotiation.set())
        self.pipeline.set_state(Gst.State.PLAYING)
        if not negotiation.wait(10):
            raise RuntimeError("webrtcbin does not ask for a negotiation")
        offer = self.ask("create-offer", Gst.Structure.new_empty("options"))
        self.tell("set-local-description", offer.get_value("offer"))
        deadline = time.monotonic() + GATHERING_LIMIT
        complete = GstWebRTC.WebRTCICEGatheringState.COMPLETE
        while self.webrtc.get_property("ice-gathering-state") != complete:
            if time.monotonic() > deadline:
                raise RuntimeError("gathering takes too long")
            time.sleep(0.02)
        return self.webrtc.get_property("local-description").sdp.as_text()

    def accept(self, sdp):
        result, message = GstSdp.SDPMessage.new_from_text(sdp)
        if result != GstSdp.SDPResult.OK:
            raise RuntimeError(f"the answer is no SDP: {result}")
        answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
        self.tell("set-remote-description", answer)

    def sample(self):
        state = self.webrtc.get_property("connection-state").value_nick
        return {"state": state, "framesDecoded": self.frames}

    def ask(self, signal, *arguments):
        promise = Gst.Promise.new()
        self.webrtc.emit(signal, *arguments, promise)
        promise.wait()
        return promise.get_reply()

    def tell(self, signal, description):
        self.ask(signal, description)

    def on_pad(self, _, pad):
        if pad.direction != Gst.PadDirection.SRC:
            return
        decoder = Gst.parse_bin_from_description(
            "rtpvp8depay ! vp8dec ! fakesink name=sink signal-handoffs=true sync=false", True
        )
        decoder.get_by_name("sink").connect("handoff", self.on_frame)
        self.pipeline.add(decoder)
        decoder.sync_state_with_parent()
        pad.link(decoder.sinkpads[0])

    def on_frame(self, *_):
        self.frames += 1


def main():
    Gst.init(None)
    threading.Thread(target=GLib.MainLoop().run, daemon=True).start()
    agent = Agent()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"ok": getattr(agent, command["call"])(*command["arguments"])}
        except Exception as error:  # told to the test, which ends
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


main()
