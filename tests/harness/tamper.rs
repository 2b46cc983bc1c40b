//! A man in the middle that modifies the bytes between a client and a server.

use tokio::sync::watch;

/// The changes that a proxy makes to the traffic. Initially none.
#[derive(Debug)]
pub(crate) struct Tampering {
    advertised: watch::Sender<Option<Vec<String>>>,
    message_id: watch::Sender<Option<String>>,
}

impl Tampering {
    pub(crate) fn none() -> Self {
        Self { advertised: watch::Sender::new(None), message_id: watch::Sender::new(None) }
    }

    pub(crate) fn advertise(&self, servers: Vec<String>) {
        self.advertised.send_replace(Some(servers));
    }

    pub(crate) fn set_message_id(&self, id: Option<String>) {
        self.message_id.send_replace(id);
    }

    /// Returns the `INFO` line with the advertised servers, or `None` if no servers are advertised.
    pub(crate) fn info(&self, line: &str) -> Option<Vec<u8>> {
        let servers = self.advertised.borrow().clone()?;
        let info = line.strip_prefix("INFO ").expect("a server begins with INFO");
        let mut info: serde_json::Value = serde_json::from_str(info).expect("INFO is JSON");
        info["connect_urls"] = servers.into();
        Some(format!("INFO {info}\r\n").into_bytes())
    }

    /// Returns whether `INFO` lines are modified.
    pub(crate) fn changes_info(&self) -> bool {
        self.advertised.borrow().is_some()
    }

    /// Overwrites each message id of the same length with the configured id.
    pub(crate) fn message_ids(&self, bytes: &mut [u8]) {
        let Some(id) = self.message_id.borrow().clone() else { return };
        let mut from = 0;
        while let Some(at) = position(&bytes[from..], b"Nats-Msg-Id: ") {
            let start = from + at + b"Nats-Msg-Id: ".len();
            let length = bytes[start..].iter().position(|byte| *byte == b'\r').unwrap_or_default();
            if length == id.len() {
                bytes[start..start + length].copy_from_slice(id.as_bytes());
            }
            from = start;
        }
    }
}

fn position(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::Tampering;

    #[test]
    fn message_ids_of_the_same_length_are_replaced() {
        let tampering = Tampering::none();
        tampering.set_message_id(Some("xyz".to_owned()));
        let mut bytes = *b"Nats-Msg-Id: abc\r\n\r\nvalueHPUB\r\nNats-Msg-Id: abcd\r\nNats-Msg-Id: def\r\n";
        tampering.message_ids(&mut bytes);
        assert_eq!(&bytes, b"Nats-Msg-Id: xyz\r\n\r\nvalueHPUB\r\nNats-Msg-Id: abcd\r\nNats-Msg-Id: xyz\r\n");
    }

    #[test]
    fn info_names_the_advertised_servers() {
        let tampering = Tampering::none();
        assert!(tampering.info(r#"INFO {"a":1}"#).is_none());
        tampering.advertise(vec!["evil:4222".to_owned()]);
        let info = tampering.info(r#"INFO {"a":1}"#).expect("it is changed");
        assert_eq!(info, b"INFO {\"a\":1,\"connect_urls\":[\"evil:4222\"]}\r\n");
    }
}
