//! A worker's TCP and TLS clients: reads, flushes and deadlines of their streams.

use super::Worker;
use crate::net::epoll::ReadyDescriptor;
use crate::net::stream::{Flushed, StreamError};
use crate::shard::control::Control;
use crate::shard::stream_intake::NewStream;
use crate::shard::token::Token;
use crate::turn::DropReason;
use crate::turn::types::Link;

impl Worker {
    /// Takes over a stream from the front door or another shard.
    pub(super) fn add_stream(&mut self, new_stream: NewStream) {
        if self.stop_at.is_some() {
            return;
        }
        match self.streams.add(self.now.mono, &self.epoll, new_stream) {
            Ok(slot) => {
                self.stats.streams_adopted.add(1);
                self.stats.streams.add(1);
                self.set_displaced_handler(slot);
                // The bytes already read may hold a whole request.
                self.take_messages(slot);
            }
            Err(error) => {
                self.stats.stream_closed("io");
                tracing::debug!(target: "relay::shard", shard = self.index, %error, "cannot take a stream over");
            }
        }
    }

    /// Registers how the front door closes this connection in favour of another one.
    fn set_displaced_handler(&mut self, slot: u32) {
        let (Some(stream), Some(own)) = (self.streams.at(slot), self.outlets.shards.get(self.index)) else {
            return;
        };
        if let Token::Stream { slot, generation } = Token::from_link(stream.client.link) {
            let own = own.clone();
            stream.when_displaced(Box::new(move || own.send(Control::Displace { slot, generation })));
        }
    }

    /// Closes a stream in favour of another connection, unless its client has logged in meanwhile.
    pub(super) fn displace_stream(&mut self, slot: u32, generation: u32) {
        if self
            .streams
            .by_token(slot, generation)
            .is_some_and(|stream| !stream.authenticated)
        {
            self.remove_stream(slot, "displaced");
        }
    }

    /// Handles a ready stream.
    pub(super) fn handle_stream(&mut self, slot: u32, generation: u32, event: ReadyDescriptor) {
        let Some(stream) = self.streams.by_token(slot, generation) else {
            return;
        };
        let closing = stream.closing.is_some();
        if closing && (event.error || event.hangup) {
            self.remove_stream(slot, "client");
            return;
        }
        if event.writable && stream.blocked && stream.held_until.is_none() {
            self.flush_slow_stream(slot);
        }
        if !closing && (event.readable || event.error || event.hangup) {
            self.read_stream(slot);
        }
    }

    fn read_stream(&mut self, slot: u32) {
        let now = self.now.mono;
        let Some(stream) = self.streams.at(slot) else { return };
        self.stream_calls += 1;
        match stream.receive(now) {
            Ok(received) => {
                self.stats.stream_bytes_received.add(received.bytes as u64);
                self.take_messages(slot);
                // At once, while the data is in the nearest cache: the next stream's data goes to
                // other relay sockets.
                self.send_datagrams();
                if received.closed {
                    self.end_stream(slot, "client");
                }
            }
            Err(error) => {
                if let StreamError::Tls(_) = error {
                    // The alert says why.
                    let _ = stream.flush(now);
                }
                self.remove_stream(slot, error.reason());
            }
        }
    }

    /// Hands every complete message to the core. Each is copied into the slab, so that relayed data
    /// leaves in one batch.
    fn take_messages(&mut self, slot: u32) {
        loop {
            if self.udp.recv.free() == 0 {
                self.send_datagrams();
            }
            let Some(stream) = self.streams.at(slot).filter(|stream| stream.closing.is_none()) else {
                return;
            };
            let client = stream.client;
            match stream.conn.next_message() {
                Ok(Some(message)) => {
                    // There is a free slot, and a slot holds the longest message.
                    let Some(packet) = self.udp.recv.store(message, &[]) else {
                        self.counters.drop_packet(DropReason::TooLong);
                        continue;
                    };
                    self.packets += 1;
                    self.handle_client(&client, packet, 0);
                }
                Ok(None) => return,
                Err(error) => {
                    self.end_stream(slot, error.reason());
                    return;
                }
            }
        }
    }

    /// Stops reading a stream, and closes it once its queue is written. Its allocation ends with
    /// this turn.
    pub(super) fn end_stream(&mut self, slot: u32, reason: &'static str) {
        if let Some(stream) = self.streams.at(slot)
            && stream.closing.is_none()
        {
            stream.closing = Some(reason);
            stream.conn.close();
            self.departed.push(stream.client);
            self.streams.mark_dirty(slot);
        }
    }

    /// Closes a stream for the core.
    pub(super) fn close_stream(&mut self, link: Link) {
        if let Token::Stream { slot, generation } = Token::from_link(link)
            && self.streams.by_token(slot, generation).is_some()
        {
            self.end_stream(slot, "server");
        }
    }

    /// Closes a stream at once.
    fn remove_stream(&mut self, slot: u32, reason: &'static str) {
        let ended = self.streams.at(slot).and_then(|stream| stream.closing);
        if let Some(client) = self.streams.remove(slot) {
            if ended.is_none() {
                self.departed.push(client);
            }
            self.stats.streams.sub(1);
            self.stats.stream_closed(ended.unwrap_or(reason));
        }
    }

    /// Flushes streams whose queues got something in this turn. A blocked stream waits for its
    /// socket instead.
    pub(super) fn flush_streams(&mut self) {
        while let Some(slot) = self.streams.next_dirty() {
            match self.streams.at(slot) {
                Some(stream) if stream.blocked => self.watch(slot),
                Some(_) => self.flush_stream(slot),
                None => {}
            }
        }
    }

    /// Flushes streams that were held until now.
    pub(super) fn resume_streams(&mut self) {
        while let Some(slot) = self.streams.next_due(self.now.mono) {
            self.flush_slow_stream(slot);
        }
    }

    fn flush_slow_stream(&mut self, slot: u32) {
        if let Some(stream) = self.streams.at(slot) {
            self.stats.stream_queue_age.record(stream.conn.backlog(self.now.mono).1);
            self.flush_stream(slot);
        }
    }

    fn flush_stream(&mut self, slot: u32) {
        let Some(stream) = self.streams.at(slot) else { return };
        self.stats.stream_flushes.add(1);
        self.stream_calls += 1;
        let flushed = stream.flush(self.now.mono);
        let closing = stream.closing;
        self.count_dropped(slot);
        let done = match flushed {
            Ok(Flushed::Done) => closing,
            Ok(Flushed::Blocked) => {
                self.stats.stream_blocked.add(1);
                None
            }
            Ok(Flushed::Held(until)) => {
                self.stats.stream_held.add(1);
                self.streams.hold(slot, until);
                None
            }
            Err(error) => Some(error.reason()),
        };
        match done {
            Some(reason) => self.remove_stream(slot, reason),
            None => self.watch(slot),
        }
    }

    /// Counts frames that a slow stream has dropped.
    fn count_dropped(&mut self, slot: u32) {
        let Some(dropped) = self.streams.at(slot).map(|stream| stream.conn.take_dropped()) else {
            return;
        };
        if dropped.total() > 0 {
            self.counters.dropped[DropReason::StreamBackpressure as usize].add(dropped.total());
            self.stats.stream_dropped_aged.add(dropped.aged);
            self.stats.stream_dropped_overflowed.add(dropped.overflowed);
        }
    }

    /// Has epoll report what the stream waits for now.
    fn watch(&mut self, slot: u32) {
        if self.streams.update_interest(&self.epoll, slot).is_err() {
            self.remove_stream(slot, "io");
        }
    }

    /// Closes a stream whose deadline has passed: a message or a write is not complete, or it has
    /// had no allocation too long.
    pub(super) fn check_deadlines(&mut self, slot: u32) {
        let now = self.now.mono;
        self.count_dropped(slot);
        let Some(stream) = self.streams.at(slot) else { return };
        if let Err(error) = stream.conn.handle_timeout(now) {
            self.remove_stream(slot, error.reason());
        } else if self.server.has_or_awaits_allocation(&stream.client) {
            stream.idle_since = now;
        } else if now - stream.idle_since >= self.idle_timeout {
            self.end_stream(slot, "idle");
        }
    }
}

#[cfg(test)]
mod tests;
