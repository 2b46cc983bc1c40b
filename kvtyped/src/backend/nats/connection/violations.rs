//! The subjects that the server denied to this user, and callers that wait for a denial.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::ticker::SharedTicker;
use crate::error::split_subject;

/// How long the subscription for replies stays denied before a request reconnects the client. A server does not
/// announce that it allows the subscription again.
const REPLIES_DENIED_LIMIT: Duration = Duration::from_secs(2);

/// The number of recent denials that are kept for requests that check later.
const DENIALS: usize = 64;

/// A subject that the server denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PermissionViolation {
    pub(crate) subject: String,
    is_subscription: bool,
}

impl PermissionViolation {
    /// Parses `Permissions Violation for Publish to "$KV.b.k"`.
    fn parse(text: &str) -> Option<Self> {
        let (_, what) = text.split_once("ermissions Violation for ")?;
        let subject = what.split('"').nth(1)?;
        Some(Self { subject: subject.to_owned(), is_subscription: what.starts_with("Subscription") })
    }
}

/// The subjects that the server denied. All waiting requests are notified, because the server does not say which
/// request it denied.
pub(crate) struct PermissionViolations {
    /// Notifies callers that wait on a subscription.
    sender: broadcast::Sender<PermissionViolation>,
    /// The most recent denials, for requests that check later.
    recent: Mutex<VecDeque<PermissionViolation>>,
    /// The total number of denials.
    count: AtomicU64,
    /// The denied subscription for all replies, if any. The server reports this denial only once.
    inbox: ArcSwapOption<DeniedInbox>,
    /// Whether a reconnect was requested because of the denial.
    has_reconnected: AtomicBool,
    /// Whether the last attempt to reconnect was refused because of the credentials.
    is_unauthorized: AtomicBool,
    ticker: Arc<SharedTicker>,
}

/// The subscription for replies that the server denied.
struct DeniedInbox {
    subject: String,
    at: Instant,
}

impl Default for PermissionViolations {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(DENIALS).0,
            recent: Mutex::default(),
            count: AtomicU64::new(0),
            inbox: ArcSwapOption::empty(),
            has_reconnected: AtomicBool::new(false),
            is_unauthorized: AtomicBool::new(false),
            ticker: Arc::default(),
        }
    }
}

impl PermissionViolations {
    /// Records a denial that the server reported.
    pub(crate) fn report(&self, text: &str) {
        let Some(violation) = PermissionViolation::parse(text) else { return };
        // The key of a record may be a secret.
        let subject = split_subject(&violation.subject).map_or(&*violation.subject, |(start, _)| start);
        tracing::debug!(subject, "the server denies a subject");
        // The replies to requests arrive under one subscription with this suffix.
        if violation.is_subscription && violation.subject.ends_with(".*") {
            self.inbox.store(Some(Arc::new(DeniedInbox { subject: violation.subject.clone(), at: Instant::now() })));
        }
        {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.len() == DENIALS {
                recent.pop_front();
            }
            recent.push_back(violation.clone());
            self.count.fetch_add(1, Ordering::Release);
        }
        self.ticker.tick_now();
        // An error means that there is no receiver.
        let _ = self.sender.send(violation);
    }

    /// Subscribes to denials, for a caller that waits on a subscription.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<PermissionViolation> {
        self.sender.subscribe()
    }

    /// Returns the timer that a denial wakes.
    pub(crate) fn ticker(&self) -> Arc<SharedTicker> {
        Arc::clone(&self.ticker)
    }

    /// Whether the client should reconnect, because the subscription for replies has been denied for a while. Returns
    /// `true` once for each connection.
    pub(crate) fn should_reconnect(&self) -> bool {
        let Some(since) = self.inbox.load_full().map(|denied| denied.at) else { return false };
        since.elapsed() >= REPLIES_DENIED_LIMIT && !self.has_reconnected.swap(true, Ordering::Relaxed)
    }

    /// Forgets the denied subscription for replies. Another connection may be allowed to subscribe. If not, the server
    /// reports the denial again.
    pub(crate) fn forget_denied_inbox(&self) {
        self.inbox.store(None);
        self.has_reconnected.store(false, Ordering::Relaxed);
    }

    /// Records whether reconnecting was refused because of the credentials.
    pub(crate) fn set_unauthorized(&self, is_unauthorized: bool) {
        self.is_unauthorized.store(is_unauthorized, Ordering::Relaxed);
    }

    pub(crate) fn is_unauthorized(&self) -> bool {
        self.is_unauthorized.load(Ordering::Relaxed)
    }

    /// Returns the total number of denials.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Returns this subject if it was denied since the count in `seen`, and updates that count.
    pub(crate) fn since(&self, seen: &mut u64, subject: &str) -> Option<String> {
        if self.count() == *seen {
            return None;
        }
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let new = self.count() - *seen;
        *seen += new;
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        recent.iter().rev().take(new).any(|denied| denied.subject == subject).then(|| subject.to_owned())
    }

    pub(crate) fn inbox(&self) -> Option<String> {
        self.inbox.load().as_ref().map(|inbox| inbox.subject.clone())
    }
}

/// Waits until the server denies this subject.
pub(crate) async fn wait_denied(
    denials: &mut Option<broadcast::Receiver<PermissionViolation>>,
    subject: &str,
) -> String {
    wait_denied_any(denials, |denied| denied == subject).await
}

/// Waits until the server denies one of these subjects.
pub(crate) async fn wait_denied_any(
    denials: &mut Option<broadcast::Receiver<PermissionViolation>>,
    is_awaited: impl Fn(&str) -> bool,
) -> String {
    while let Some(receiver) = denials {
        match receiver.recv().await {
            Ok(violation) if is_awaited(&violation.subject) => return violation.subject,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => *denials = None,
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_violation_parses_from_server_error() {
        let publish = PermissionViolation::parse(r#"Permissions Violation for Publish to "$KV.b.t2.k""#);
        assert_eq!(publish, Some(PermissionViolation { subject: "$KV.b.t2.k".into(), is_subscription: false }));
        let inbox = PermissionViolation::parse(r#"Permissions Violation for Subscription to "_INBOX.x.*""#);
        assert_eq!(inbox, Some(PermissionViolation { subject: "_INBOX.x.*".into(), is_subscription: true }));
        assert_eq!(PermissionViolation::parse("Stale Connection"), None);
    }

    #[test]
    fn violation_reaches_each_earlier_reader_once() {
        let violations = PermissionViolations::default();
        let denied = |subject: &str| violations.report(&format!("Permissions Violation for Publish to \"{subject}\""));
        denied("a");
        let (mut one, mut other) = (violations.count(), violations.count());
        assert_eq!(violations.since(&mut one, "a"), None);
        denied("b");
        assert_eq!(violations.since(&mut one, "b").as_deref(), Some("b"));
        assert_eq!(violations.since(&mut one, "b"), None);
        (0..DENIALS - 1).for_each(|_| denied("c"));
        assert_eq!(violations.since(&mut other, "b").as_deref(), Some("b"));
    }
}
