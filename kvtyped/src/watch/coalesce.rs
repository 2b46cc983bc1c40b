//! A slow reader's waiting room: the newest event of each key.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, StreamExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::NewsStream;
use super::recover::News;
use crate::error::Result;

/// What waits, in the order in which it is told.
#[derive(Default)]
struct Waiting {
    next: u64,
    news: BTreeMap<u64, Result<News>>,
    /// Where the event of a key waits.
    keys: HashMap<String, u64>,
    /// Where `Ready` waits, or waited last.
    ready: u64,
    over: bool,
}

impl Waiting {
    fn push(&mut self, news: Result<News>) {
        let older = key(&news).and_then(|key| self.keys.insert(key.to_owned(), self.next));
        if let Some(older) = older {
            self.news.remove(&older);
        }
        match &news {
            // What waits is forgotten with all that was told.
            Ok(News::Resync) => {
                self.news.clear();
                self.keys.clear();
            }
            // The reader that lags is the one that this makes up for.
            Ok(News::Lagging(_) | News::Alive(_) | News::Interrupted(_)) => return,
            Ok(News::Entry(..) | News::Ready) | Err(_) => {}
        }
        self.put(news);
        // What was to come before `Ready` still does.
        if older.is_some_and(|older| older < self.ready)
            && let Some(ready) = self.news.remove(&self.ready)
        {
            self.put(ready);
        }
    }

    fn put(&mut self, news: Result<News>) {
        if matches!(news, Ok(News::Ready)) {
            self.ready = self.next;
        }
        self.news.insert(self.next, news);
        self.next += 1;
    }

    fn pop(&mut self) -> Option<Result<News>> {
        let (_, news) = self.news.pop_first()?;
        if let Some(key) = key(&news) {
            self.keys.remove(key);
        }
        Some(news)
    }
}

/// The key that news are about, if they are about one.
fn key(news: &Result<News>) -> Option<&str> {
    match news {
        Ok(News::Entry(entry, _)) => Some(entry.key.as_str()),
        Ok(_) => None,
        Err(error) => error.key(),
    }
}

/// Ends the listening task with the stream that it feeds.
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends the stream of the reader when the task ends, also when the runtime of the task shuts down.
struct Feed(Arc<(Mutex<Waiting>, Notify)>);

impl Drop for Feed {
    fn drop(&mut self) {
        let (waiting, arrived) = &*self.0;
        waiting.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        arrived.notify_one();
    }
}

/// Listens in a task, and keeps the newest of each key for whoever reads.
pub(super) fn coalesce(mut news: NewsStream) -> NewsStream {
    let shared = Arc::new((Mutex::new(Waiting::default()), Notify::new()));
    let feed = Arc::clone(&shared);
    // Created before the task starts: a runtime that ends may never poll the task.
    let feed = Feed(feed);
    let listener = Listener(tokio::spawn(async move {
        while let Some(news) = news.next().await {
            let (waiting, arrived) = &*feed.0;
            waiting.lock().unwrap_or_else(PoisonError::into_inner).push(news);
            arrived.notify_one();
        }
        drop(feed);
    }));
    stream::unfold((shared, listener), |(shared, listener)| async move {
        loop {
            let (waiting, arrived) = &*shared;
            {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(news) = waiting.pop() {
                    drop(waiting);
                    return Some((news, (shared, listener)));
                }
                if waiting.over {
                    return None;
                }
            }
            arrived.notified().await;
        }
    })
    .boxed()
}
