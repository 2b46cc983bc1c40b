//! Base64 (RFC 4648), in canonical form only.

/// An alphabet, with or without padding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// With `-` and `_`, without padding.
    Url,
    /// With `+` and `/`, padded.
    Standard,
}

impl Alphabet {
    fn character(self, six: u32) -> char {
        let last = match self {
            Self::Url => ['-', '_'],
            Self::Standard => ['+', '/'],
        };
        let letter = |first: u8, at: u32| char::from_u32(u32::from(first) + at).unwrap_or(first.into());
        match six & 63 {
            at @ 0..26 => letter(b'A', at),
            at @ 26..52 => letter(b'a', at - 26),
            at @ 52..62 => letter(b'0', at - 52),
            62 => last[0],
            _ => last[1],
        }
    }

    fn six(self, character: char) -> Option<u32> {
        (0..64).find(|six| self.character(*six) == character)
    }
}

pub(super) fn encode(bytes: &[u8], alphabet: Alphabet) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, at| word << 8 | u32::from(chunk.get(at).copied().unwrap_or_default()));
        let characters = [18, 12, 6, 0].map(|shift| alphabet.character(word >> shift));
        out.extend(characters.into_iter().take(chunk.len() + 1));
        if alphabet == Alphabet::Standard {
            out.extend(std::iter::repeat_n('=', 3 - chunk.len()));
        }
    }
    out
}

/// Returns the bytes, or `None` if [`encode`] does not write `text`.
pub(super) fn decode(text: &str, alphabet: Alphabet) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut word, mut bits) = (0_u32, 0);
    for character in text.trim_end_matches('=').chars() {
        word = word << 6 | alphabet.six(character)?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(word >> bits & 255).ok()?);
        }
        word &= 255;
    }
    (encode(&bytes, alphabet) == text).then_some(bytes)
}
