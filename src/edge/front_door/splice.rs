//! Splices two connections: carries bytes in both directions until both ends have closed or no more
//! bytes come. A connection that ends otherwise must not look complete at either end.

use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

/// The resolution of idle times, as a fraction: a connection may live too long by this part.
const FINENESS: u32 = 8;

/// How a splice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpliceEnd {
    /// Both ends closed.
    Closed,
    /// One end reset the connection or is gone.
    Broken,
    /// No byte came for too long.
    Idle,
    /// An end sent nothing in time.
    Silent,
    /// It was displaced by a client with fewer connections, or fewer places at the backends.
    Displaced,
    /// The server stopped first.
    Stopped,
}

impl SpliceEnd {
    /// Every end: `ALL[x as usize] == x`.
    pub const ALL: [Self; 6] = [
        Self::Closed,
        Self::Broken,
        Self::Idle,
        Self::Silent,
        Self::Displaced,
        Self::Stopped,
    ];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::Silent => "silent",
            Self::Displaced => "displaced",
            Self::Stopped => "stopped",
        }
    }
}

/// Which end must send something within this time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beginning {
    /// Either end: which one sends first is the application's matter.
    Either(Duration),
    /// Both.
    Both(Duration),
}

impl Beginning {
    /// Returns when that time has passed in vain.
    async fn missed(self, client: &Activity, backend: &Activity) {
        let (Self::Either(time) | Self::Both(time)) = self;
        sleep(time).await;
        let (client, backend) = (client.any(), backend.any());
        let begun = match self {
            Self::Either(_) => client || backend,
            Self::Both(_) => client && backend,
        };
        if begun {
            core::future::pending().await
        }
    }
}

/// Two connections after the splice.
pub(super) struct Spliced {
    pub(super) end: SpliceEnd,
    /// The client received no end of stream from the backend: a clean close would make its
    /// incomplete data look complete.
    pub(super) client_cut: bool,
    /// The same in the other direction.
    pub(super) backend_cut: bool,
}

/// Carries bytes between a client and a backend, in both directions. The end of one direction is
/// passed on, and the other continues.
pub(super) async fn splice(
    client: impl AsyncRead + AsyncWrite + Unpin,
    backend: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
    beginning: Beginning,
    over: impl Future<Output = SpliceEnd>,
) -> Spliced {
    let moved = Activity::default();
    let mut client = Watched::new(client, moved.clone());
    let mut backend = Watched::new(backend, moved.clone());
    let heard = (client.heard.clone(), backend.heard.clone());
    let end = tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut client, &mut backend) => match copied {
            Ok(_) => SpliceEnd::Closed,
            Err(_) => SpliceEnd::Broken,
        },
        () = moved.rests_for(idle) => SpliceEnd::Idle,
        () = beginning.missed(&heard.0, &heard.1) => SpliceEnd::Silent,
        end = over => end,
    };
    Spliced {
        end,
        client_cut: !client.told_end,
        backend_cut: !backend.told_end,
    }
}

/// Counts bytes, to detect an idle connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<AtomicU64>);

impl Activity {
    fn note(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Whether any byte has come.
    fn any(&self) -> bool {
        self.0.load(Relaxed) > 0
    }

    /// Returns when no byte has come for `idle`, at most an eighth of it later.
    pub(super) async fn rests_for(&self, idle: Duration) {
        let mut last = self.0.load(Relaxed);
        let mut quiet = 0;
        // One more than needed: the first interval may have begun just before the last byte.
        while quiet <= FINENESS {
            sleep(idle / FINENESS).await;
            let now = self.0.load(Relaxed);
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
    }
}

/// A stream that counts its bytes.
pub(super) struct Watched<S> {
    stream: S,
    activity: Activity,
    /// It delivered bytes.
    heard: Activity,
    /// Its peer received the end of the stream.
    told_end: bool,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, activity: Activity) -> Self {
        Self {
            stream,
            activity,
            heard: Activity::default(),
            told_end: false,
        }
    }

    fn noting<T>(&self, polled: Poll<T>) -> Poll<T> {
        if polled.is_ready() {
            self.activity.note();
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.heard.note();
        }
        self.noting(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noting(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.told_end |= matches!(polled, Poll::Ready(Ok(())));
        polled
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const IDLE: Duration = Duration::from_secs(80);
    const FIRST: Beginning = Beginning::Both(Duration::from_secs(100_000));

    #[tokio::test(start_paused = true)]
    async fn one_end_may_stop_sending_and_still_receive() {
        let (mut client, near) = duplex(64);
        let (far, mut backend) = duplex(64);
        let spliced = tokio::spawn(splice(near, far, IDLE, FIRST, core::future::pending()));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        backend.read_to_end(&mut question).await.unwrap();
        backend.write_all(b"answer").await.unwrap();
        backend.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!((&question[..], &answer[..]), (&b"question"[..], &b"answer"[..]));
        let ended = spliced.await.unwrap();
        assert_eq!(ended.end, SpliceEnd::Closed);
        assert!(!ended.client_cut && !ended.backend_cut, "each was told of the end");
    }

    #[tokio::test(start_paused = true)]
    async fn what_rests_too_long_ends_and_what_moves_does_not() {
        let (mut client, near) = duplex(64);
        let (far, mut backend) = duplex(64);
        let spliced = tokio::spawn(splice(near, far, IDLE, FIRST, core::future::pending()));
        // Bytes in either direction keep it alive, for many times its idle limit.
        for round in 0..10 {
            sleep(IDLE - Duration::from_secs(1)).await;
            let (from, to) = if round % 2 == 0 {
                (&mut client, &mut backend)
            } else {
                (&mut backend, &mut client)
            };
            from.write_all(b"x").await.unwrap();
            assert_eq!(to.read_u8().await.unwrap(), b'x');
        }
        let begun = tokio::time::Instant::now();
        assert_eq!(spliced.await.unwrap().end, SpliceEnd::Idle);
        let rested = begun.elapsed();
        assert!(rested >= IDLE && rested <= IDLE + IDLE / 4, "{rested:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_connection_that_rests_ends_too() {
        let (mut client, near) = duplex(64);
        let (far, _backend) = duplex(64);
        let spliced = tokio::spawn(splice(near, far, IDLE, FIRST, core::future::pending()));
        client.shutdown().await.unwrap();
        assert_eq!(spliced.await.unwrap().end, SpliceEnd::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_says_nothing_is_not_waited_for_as_long_as_one_that_rests() {
        const SHORT: Duration = Duration::from_secs(10);
        // Which ends send, and whether that suffices, for both and for either.
        for (speaks, both, either) in [
            ([false, false], false, false),
            ([true, false], false, true),
            ([false, true], false, true),
            ([true, true], true, true),
        ] {
            for (beginning, enough) in [(Beginning::Both(SHORT), both), (Beginning::Either(SHORT), either)] {
                let (mut client, near) = duplex(64);
                let (far, mut backend) = duplex(64);
                let begun = tokio::time::Instant::now();
                let spliced = tokio::spawn(splice(near, far, IDLE, beginning, core::future::pending()));
                sleep(SHORT / 2).await;
                for (end, _) in [&mut client, &mut backend]
                    .into_iter()
                    .zip(speaks)
                    .filter(|(_, speaks)| *speaks)
                {
                    end.write_all(b"x").await.unwrap();
                }
                let expected = if enough { SpliceEnd::Idle } else { SpliceEnd::Silent };
                assert_eq!(spliced.await.unwrap().end, expected, "{beginning:?} {speaks:?}");
                assert!(enough || begun.elapsed() == SHORT, "{beginning:?} {speaks:?}");
            }
        }
    }

    #[test]
    fn each_end_has_its_label() {
        let labels = SpliceEnd::ALL.map(SpliceEnd::as_str);
        assert_eq!(labels, ["closed", "broken", "idle", "silent", "displaced", "stopped"]);
    }
}
