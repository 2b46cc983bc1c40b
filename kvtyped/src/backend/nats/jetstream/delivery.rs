//! The reply subject of a delivered message.

use std::time::{Duration, SystemTime};

use crate::revision::Revision;

/// The fields of the reply subject of a delivered message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) revision: Revision,
    /// The sequence number of this delivery of the consumer.
    pub(crate) number: u64,
    pub(crate) created: SystemTime,
    /// The number of pending messages.
    pub(crate) pending: u64,
}

impl Delivery {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<revision>.<number>.<time>.<pending>`, or the form with a domain
    /// and an account before the stream.
    pub(crate) fn parse(reply: &str) -> Option<Self> {
        let mut tokens = [""; 9];
        let mut count = 0;
        // A search for the end of each short token costs more than one pass over the bytes.
        let text = reply.strip_prefix("$JS.ACK.")?;
        let mut start = 0;
        for (at, byte) in text.bytes().enumerate() {
            if byte == b'.' {
                if count == tokens.len() {
                    break;
                }
                (tokens[count], count, start) = (text.get(start..at)?, count + 1, at + 1);
            }
        }
        if let Some(last) = tokens.get_mut(count) {
            (*last, count) = (text.get(start..)?, count + 1);
        }
        let tokens = match count {
            7 => &tokens[..7],
            9 => &tokens[2..],
            _ => return None,
        };
        let number = |at: usize| tokens[at].parse::<u64>().ok();
        Some(Self {
            revision: Revision::new(number(3)?),
            number: number(4)?,
            created: SystemTime::UNIX_EPOCH + Duration::from_nanos(number(5)?),
            pending: number(6)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_reply_subject_forms_parse_alike() {
        let wanted = Delivery {
            revision: Revision::new(20),
            number: 3,
            created: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001),
            pending: 4,
        };
        let short = "$JS.ACK.KV_b.c.1.20.3.1700000000000000001.4";
        assert_eq!(Delivery::parse(short).as_ref(), Some(&wanted));
        let long = "$JS.ACK.hub.ACC.KV_b.c.1.20.3.1700000000000000001.4.rnd";
        assert_eq!(Delivery::parse(long).as_ref(), Some(&wanted));
        assert_eq!(Delivery::parse("_INBOX.x"), None);
    }
}
