//! Faults of the kernel, and how often they occur.

use relay_testkit::dice::Dice;

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $name:ident => $text:literal,)*) => {
        /// A fault that a kernel may cause to a worker at any time.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault {
            $($(#[doc = $doc])* $name,)*
        }

        impl Fault {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

faults! {
    /// `recvmmsg` or `sendmmsg` does part of its list.
    ShortBatch => "a short batch",
    /// There is nothing to receive after all.
    ReceiveAgain => "EAGAIN from a socket said to be readable",
    ReceiveInterrupted => "EINTR from a receive",
    /// The error of an earlier datagram.
    ReceiveError => "a pending error from a receive",
    /// The control data of a datagram did not fit.
    Truncated => "a datagram cut short",
    SendAgain => "EAGAIN from a send",
    SendNoBuffers => "ENOBUFS from a send",
    SendRefused => "ECONNREFUSED from a send",
    SendUnreachable => "ENETUNREACH from a send",
    SendTooLong => "EMSGSIZE from a send",
    SendForbidden => "EPERM from a send",
    SendInterrupted => "EINTR from a send",
    /// From now on for this socket: the device cannot, or the MTU of the route is smaller.
    GsoRefused => "GSO refused",
    ShortRead => "a short read",
    ShortWrite => "a short write",
    ReadAgain => "EAGAIN from a readable stream",
    WriteAgain => "EAGAIN from a writable stream",
    Interrupted => "EINTR from a stream",
    Reset => "ECONNRESET from a stream",
    BrokenPipe => "EPIPE from a stream",
    NoDescriptor => "EMFILE",
    NoFile => "ENFILE",
    PortTaken => "EADDRINUSE",
    WatchFailed => "ENOSPC from epoll_ctl",
    AcceptAborted => "ECONNABORTED from accept",
    ConnectUnreachable => "ENETUNREACH from connect",
    /// An earlier connection still uses the address.
    ConnectTaken => "EADDRNOTAVAIL from connect",
    ConnectedAtOnce => "a connection made at once",
    ConnectLost => "a connection that is never made",
    ConnectTimedOut => "ETIMEDOUT of a connection being made",
    NoTcpInfo => "no TCP_INFO",
    RecordLost => "a DTLS record lost",
    RecordDoubled => "a DTLS record that comes twice",
    RecordLate => "a DTLS record that comes late",
    /// epoll reports a socket that is not ready.
    Spurious => "spurious readiness",
    /// epoll reports only part of what is ready.
    Partial => "part of what is ready",
    WaitInterrupted => "EINTR from epoll_wait",
}

/// Rates of a run, per ten thousand calls, and how often each fault occurred.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) rates: Vec<u64>,
    pub(crate) struck: Vec<u64>,
}

impl Faults {
    /// No faults.
    pub(crate) fn none() -> Self {
        let zeroes = vec![0; Fault::ALL.len()];
        Self {
            rates: zeroes.clone(),
            struck: zeroes,
        }
    }

    /// Each kind with a probability of one half; in some runs one kind is frequent.
    pub(crate) fn drawn(dice: &mut Dice) -> Self {
        let mut all = Self::none();
        if dice.percent(15) {
            return all;
        }
        for rate in &mut all.rates {
            if dice.percent(50) {
                *rate = *dice.pick(&[30, 100, 300, 1000]);
            }
        }
        if dice.percent(30) {
            let often = dice.index(Fault::ALL.len());
            all.rates[often] = *dice.pick(&[1000, 3000]);
        }
        // Few connections are made or accepted, so these rates are higher.
        for fault in [
            Fault::ConnectUnreachable,
            Fault::ConnectTaken,
            Fault::ConnectedAtOnce,
            Fault::ConnectLost,
            Fault::ConnectTimedOut,
            Fault::AcceptAborted,
        ] {
            all.rates[fault as usize] = (all.rates[fault as usize] * 5).min(3000);
        }
        // Each of these ends a connection or an allocation.
        for fault in [Fault::Reset, Fault::BrokenPipe, Fault::WatchFailed] {
            all.rates[fault as usize] = all.rates[fault as usize].min(100);
        }
        all
    }

    /// Whether the fault occurs this time.
    pub(crate) fn strikes(&mut self, dice: &mut Dice, fault: Fault) -> bool {
        let rate = self.rates[fault as usize];
        let strikes = rate > 0 && dice.below(10_000) < rate;
        self.struck[fault as usize] += u64::from(strikes);
        strikes
    }
}
