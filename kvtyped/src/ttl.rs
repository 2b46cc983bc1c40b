//! The time to live of a single write.

use std::fmt;
use std::time::Duration;

/// The time to live of one write: whole seconds, at least one (ADR-43).
///
/// A fraction of a second is rounded up, so no record expires earlier than requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl {
    seconds: u64,
}

impl Ttl {
    /// The shortest TTL, and its granularity.
    pub const MIN: Duration = Duration::from_secs(1);

    /// The longest TTL: a century of leap years.
    pub(crate) const MAX: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

    /// The TTL of a write that another client exempted from the bucket's TTL (`Nats-TTL: never`).
    pub(crate) const NEVER: Self = Self { seconds: u64::MAX };

    /// Returns whether the write never expires, not even by the TTL of its bucket.
    pub const fn is_never(self) -> bool {
        self.seconds == u64::MAX
    }

    /// Rounds a duration up to whole seconds. Returns `None` if it is shorter than [`Ttl::MIN`] or longer than a
    /// century.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kvtyped::Ttl;
    ///
    /// let ttl = Ttl::new(Duration::from_millis(1_900)).unwrap();
    /// assert_eq!(ttl.as_duration(), Duration::from_secs(2));
    /// assert_eq!(Ttl::new(Duration::from_millis(500)), None);
    /// ```
    pub const fn new(duration: Duration) -> Option<Self> {
        let seconds = duration.as_secs();
        if seconds == 0 || seconds > Self::MAX.as_secs() {
            return None;
        }
        Some(Self { seconds: if duration.subsec_nanos() > 0 { seconds + 1 } else { seconds } })
    }

    /// Returns the TTL in whole seconds, or `u64::MAX` if the write [never](Self::is_never) expires.
    pub const fn as_secs(self) -> u64 {
        self.seconds
    }

    /// Returns the TTL as a duration.
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_never() {
            true => f.write_str("never"),
            false => write!(f, "{} s", self.seconds),
        }
    }
}
