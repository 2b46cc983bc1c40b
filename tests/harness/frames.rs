//! Splits the output of a NATS server into protocol messages.

/// A decoder that collects bytes and returns complete frames: a line, and for `MSG` and `HMSG` its payload too.
#[derive(Default)]
pub(crate) struct Frames {
    buffer: Vec<u8>,
    /// The number of bytes of the buffer that were already returned as frames.
    done: usize,
}

/// One protocol message including its line ends, unmodified.
pub(crate) struct Frame(pub(crate) Vec<u8>);

impl Frames {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.done);
        self.done = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete frame, or `None` if more bytes are required.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let rest = &self.buffer[self.done..];
        let line = line_len(rest)?;
        let frame = rest.get(..line + payload_len(&rest[..line]))?.to_vec();
        self.done += frame.len();
        Some(Frame(frame))
    }

    /// Returns the bytes of an incomplete frame.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.done..]
    }
}

impl Frame {
    /// Returns whether the frame delivers a message. Every reply is such a frame.
    pub(crate) fn is_message(&self) -> bool {
        is_message(&self.0)
    }

    /// Returns the first line, without its line end.
    pub(crate) fn line(&self) -> &str {
        let line = line_len(&self.0).unwrap_or(self.0.len());
        std::str::from_utf8(&self.0[..line]).unwrap_or_default().trim_end()
    }

    /// Returns the bytes after the first line, without the final line end: headers and payload.
    pub(crate) fn body(&self) -> &[u8] {
        let line = line_len(&self.0).unwrap_or(self.0.len());
        self.0[line..].strip_suffix(b"\r\n").unwrap_or_default()
    }
}

/// Returns the length of the first line including its end, or `None` if the line is incomplete.
fn line_len(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|b| *b == b'\n').map(|at| at + 1)
}

fn is_message(line: &[u8]) -> bool {
    line.starts_with(b"MSG ") || line.starts_with(b"HMSG ")
}

/// Returns the number of bytes after the line. The last word of both `MSG` and `HMSG` is the length of the body,
/// without its final line end.
fn payload_len(line: &[u8]) -> usize {
    if !is_message(line) {
        return 0;
    }
    let text = std::str::from_utf8(line).expect("a server sends UTF-8 subjects");
    let last = text.split_whitespace().next_back().and_then(|word| word.parse::<usize>().ok());
    last.expect("a delivery ends with its length") + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"INFO {\"a\":1}\r\nMSG s 1 3\r\nMSG\r\nPING\r\nHMSG s 1 r 12 14\r\nNATS/1.0\r\n\r\n\r\n\r\nPONG\r\n";

    #[test]
    fn frames_do_not_depend_on_chunk_size() {
        for size in 1..=STREAM.len() {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for chunk in STREAM.chunks(size) {
                frames.push(chunk);
                while let Some(frame) = frames.next() {
                    got.push(frame);
                }
            }
            let lines: Vec<_> = got.iter().map(Frame::line).collect();
            assert_eq!(lines, ["INFO {\"a\":1}", "MSG s 1 3", "PING", "HMSG s 1 r 12 14", "PONG"]);
            assert_eq!(got[1].body(), b"MSG");
            assert_eq!(got[3].body(), b"NATS/1.0\r\n\r\n\r\n");
            let together: Vec<u8> = got.into_iter().flat_map(|frame| frame.0).collect();
            assert_eq!(together, STREAM);
            assert!(frames.rest().is_empty());
        }
    }
}
