//! CRC-32C (Castagnoli), eight bytes a step.

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]` is the checksum of the byte `b` followed by `k` zero bytes.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// A checksum of bytes that come in parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crc(u32);

impl Crc {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    /// Adds bytes.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let [a, b, c, d, e, f, g, h] = *word;
            let [i, j, k, l] = self.0.to_le_bytes();
            let index = [a ^ i, b ^ j, c ^ k, d ^ l, e, f, g, h];
            self.0 = TABLES.iter().rev().zip(index).fold(0, |crc, (table, byte)| crc ^ table[usize::from(byte)]);
        }
        for byte in rest {
            self.0 = (self.0 >> 8) ^ TABLES[0][usize::from(self.0 as u8 ^ byte)];
        }
        self
    }

    /// Adds a number or its absence.
    pub(super) fn integer(self, number: Option<i64>) -> Self {
        match number {
            Some(number) => self.bytes(&[1]).bytes(&number.to_le_bytes()),
            None => self.bytes(&[0]),
        }
    }

    /// Adds a text or its absence.
    pub(super) fn text(self, text: Option<&str>) -> Self {
        self.field(2, text.map(str::as_bytes))
    }

    /// Adds a value or its absence.
    pub(super) fn blob(self, value: Option<&[u8]>) -> Self {
        self.field(3, value)
    }

    fn field(self, kind: u8, bytes: Option<&[u8]>) -> Self {
        match bytes {
            Some(bytes) => self.bytes(&[kind]).bytes(&(bytes.len() as u64).to_le_bytes()).bytes(bytes),
            None => self.bytes(&[0]),
        }
    }

    /// Returns the checksum as the tables store it.
    pub(super) fn end(self) -> i64 {
        i64::from(!self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_matches_the_published_values() {
        assert_eq!(Crc::new().bytes(b"123456789").end(), 0xe306_9283);
        assert_eq!(Crc::new().bytes(&[0; 32]).end(), 0x8a91_36aa);
        assert_eq!(Crc::new().bytes(&[0xff; 32]).end(), 0x62a8_ab43);
        assert_eq!(Crc::new().bytes(b"1234").bytes(b"56789").end(), 0xe306_9283);
    }

    #[test]
    fn fields_with_other_borders_differ() {
        let of = |a, b| Crc::new().text(a).text(b).end();
        assert_ne!(of(Some("ab"), Some("c")), of(Some("a"), Some("bc")));
        assert_ne!(of(None, Some("")), of(Some(""), None));
        assert_ne!(Crc::new().text(Some("a")).end(), Crc::new().blob(Some(b"a")).end());
        assert_ne!(Crc::new().integer(Some(0)).end(), Crc::new().integer(None).end());
    }
}
