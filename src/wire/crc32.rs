//! CRC-32 as in Ethernet and zip (IEEE 802.3, reflected, polynomial 0xEDB88320): detects a torn file. It does not protect
//! against an attacker.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        // n stays below 256, so nothing is lost.
        #[allow(clippy::cast_possible_truncation)]
        let mut value = n as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xEDB8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[n] = value;
        n += 1;
    }
    table
}

/// The checksum of bytes that come one part after the other.
pub struct Sum(u32);

impl Default for Sum {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Sum {
    pub fn add(&mut self, part: &[u8]) {
        let next = |crc: u32, byte: &u8| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize];
        self.0 = part.iter().fold(self.0, next);
    }

    /// Of all that was added.
    pub fn value(&self) -> u32 {
        !self.0
    }
}

/// The checksum of `bytes`.
pub fn of(bytes: &[u8]) -> u32 {
    let mut sum = Sum::default();
    sum.add(bytes);
    sum.value()
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn the_known_vectors() {
        for (text, want) in [
            (&b""[..], 0),
            (b"123456789", 0xcbf4_3926),
            (b"a", 0xe8b7_be43),
            (b"The quick brown fox jumps over the lazy dog", 0x414f_a339),
            (&[0; 32], 0x190a_55ad),
            (&[0xff; 32], 0xff6c_ab0b),
        ] {
            assert_eq!(of(text), want, "{text:?}");
        }
    }

    #[test]
    fn every_single_flipped_bit_shows() {
        let text = b"cronium-journal 1".to_vec();
        for bit in 0..text.len() * 8 {
            let mut other = text.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(of(&other), of(&text), "bit {bit}");
        }
    }
}
