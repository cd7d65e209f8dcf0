//! Enforces a minimum rate on a request's body: a client that sends one byte now and then holds a
//! place at a backend no longer than one that sends none.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;

use axum::BoxError;
use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::settings::FrontDoorSettings;

/// The required pace of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyPace {
    /// Time until its first byte.
    first: Duration,
    /// Bytes per second; each byte extends the time by its share.
    rate: u64,
    /// How far it may fall behind that rate.
    pause: Duration,
    /// Time for the whole body.
    total: Duration,
}

impl From<&FrontDoorSettings> for BodyPace {
    fn from(settings: &FrontDoorSettings) -> Self {
        Self {
            first: settings.first_bytes_timeout,
            rate: settings.body_rate.max(1),
            pause: settings.body_pause,
            total: settings.body_timeout,
        }
    }
}

impl BodyPace {
    fn bought(&self, bytes: usize) -> Duration {
        let nanos = u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(1_000_000_000) / u128::from(self.rate);
        u64::try_from(nanos).map_or(self.pause, Duration::from_nanos)
    }
}

/// The body arrived too slowly.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's body comes too slowly")
    }
}

impl core::error::Error for TooSlow {}

impl TooSlow {
    /// Whether it is the cause of `error`.
    pub(super) fn is_cause_of(error: &(dyn core::error::Error + 'static)) -> bool {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<Self>() {
                return true;
            }
            next = error.source();
        }
        false
    }
}

/// A body that fails with [`TooSlow`]. Only time spent waiting for its client counts. Trailers are
/// dropped: fields that are refused as headers are refused there, too (RFC 9110 §6.5.1 permits it).
pub(super) struct Paced<B> {
    body: B,
    pace: BodyPace,
    /// How far it may still fall behind.
    left: Duration,
    begun: bool,
    waits_since: Option<Instant>,
    end: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, pace: BodyPace) -> Self {
        let end = Instant::now() + pace.total;
        Self {
            body,
            pace,
            left: pace.first,
            begun: false,
            waits_since: None,
            end,
            timer: Box::pin(sleep_until(end)),
        }
    }

    fn note(&mut self, bytes: usize) {
        if let Some(since) = self.waits_since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        if bytes > 0 && !self.begun {
            self.begun = true;
            self.left = self.pace.pause;
        }
        self.left = (self.left + self.pace.bought(bytes)).min(self.pace.pause);
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let deadline = (since + self.left).min(self.end);
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if Instant::now() >= self.end {
            return Poll::Ready(Some(Err(TooSlow.into())));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => {
                ready!(self.poll_late(cx));
                Poll::Ready(Some(Err(TooSlow.into())))
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    self.note(data.len());
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Err(_trailers) => Poll::Ready(None),
            },
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::sync::mpsc;
    use tokio::time::{advance, sleep, timeout};

    use super::*;

    const PACE: BodyPace = BodyPace {
        first: Duration::from_secs(10),
        rate: 100,
        pause: Duration::from_secs(30),
        total: Duration::from_secs(600),
    };

    type Frames = mpsc::UnboundedSender<usize>;

    /// A body, and the sender of its frames by length.
    fn body() -> (Frames, impl Body<Data = Bytes, Error = BoxError> + Unpin) {
        let (sender, frames) = mpsc::unbounded_channel();
        let stream = futures_util::stream::unfold(frames, |mut frames| async {
            let len: usize = frames.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from(vec![0; len]))), frames))
        });
        (sender, Paced::new(StreamBody::new(stream.boxed()), PACE))
    }

    /// Reads all of a body that gets `len` bytes every `pause`. Returns the time.
    async fn read(len: usize, pause: Duration) -> (Duration, bool) {
        let (sender, body) = body();
        let begun = Instant::now();
        let feeder = tokio::spawn(async move {
            for _ in 0..1000 {
                if sender.send(len).is_err() {
                    return;
                }
                sleep(pause).await;
            }
        });
        let read = body.collect().await;
        feeder.abort();
        let slow = read.err().is_some_and(|error| TooSlow::is_cause_of(error.as_ref()));
        (begun.elapsed(), slow)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_ends_as_one_that_rests_and_an_honest_one_is_read_whole() {
        let seconds = Duration::from_secs;
        let (time, slow) = read(1, seconds(20)).await;
        assert!(slow && time < seconds(40), "{time:?}");
        let (time, slow) = read(50, seconds(1)).await;
        assert!(
            slow && time > seconds(55) && time < seconds(65),
            "half the rate: {time:?}"
        );
        // At the required rate for most of the total time.
        let (time, slow) = read(100, Duration::from_millis(500)).await;
        assert!(!slow && time >= seconds(500), "{time:?}");
        // In bursts, each after the longest permitted pause.
        let (time, slow) = read(10_000, seconds(29)).await;
        assert!(slow && time == PACE.total, "the time for all of it ends it: {time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_byte_is_waited_for_less_long() {
        let (sender, mut body) = body();
        let begun = Instant::now();
        let frame = timeout(PACE.total, body.frame())
            .await
            .expect("an end before that of a whole body");
        assert!(frame.unwrap().is_err());
        assert_eq!(begun.elapsed(), PACE.first);
        drop(sender);
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_reads_is_not_the_clients() {
        let (sender, mut body) = body();
        sender.send(1).unwrap();
        body.frame().await.unwrap().unwrap();
        for _ in 0..10 {
            // The backend reads slowly.
            advance(Duration::from_secs(50)).await;
            sender.send(1).unwrap();
            body.frame().await.unwrap().unwrap();
        }
    }

    #[test]
    fn a_body_is_as_long_as_it_says_and_one_that_is_too_slow_is_told_so() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let _time = runtime.as_ref().expect("a runtime").enter();
        let body = Paced::new(axum::body::Body::from("abc"), PACE);
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!body.is_end_stream());
        assert!(Paced::new(axum::body::Body::empty(), PACE).is_end_stream());
        assert_eq!(TooSlow.to_string(), "the request's body comes too slowly");
    }
}
