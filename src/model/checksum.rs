//! The checksum of a whole blob, CRC-64/NVME, which S3 clients send and receive as
//! `x-amz-checksum-crc64nvme`: base64 of the 8 bytes, big-endian.

use std::{fmt, str::FromStr};

use base64::{Engine as _, display::Base64Display, engine::general_purpose::STANDARD};

/// The CRC-64/NVME of a blob's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(pub u64);

/// A text that is not base64 of 8 bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a CRC-64/NVME checksum is base64 of 8 bytes")]
pub struct ChecksumError;

impl Checksum {
    /// The checksum of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut crc = Crc64::default();
        crc.update(bytes);
        crc.finish()
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Base64Display::new(&self.0.to_be_bytes(), &STANDARD), f)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Checksum {
    type Err = ChecksumError;
    fn from_str(text: &str) -> Result<Self, ChecksumError> {
        let bytes = STANDARD.decode(text).map_err(|_| ChecksumError)?;
        Ok(Self(u64::from_be_bytes(bytes.try_into().map_err(|_| ChecksumError)?)))
    }
}

super::text::stands_as_text!(Checksum);

/// A CRC-64/NVME that is being computed.
#[derive(Clone)]
pub struct Crc64(crc_fast::Digest);

impl Default for Crc64 {
    fn default() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme))
    }
}

impl fmt::Debug for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crc64({:016x})", self.0.finalize())
    }
}

impl Crc64 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far.
    pub fn finish(&self) -> Checksum {
        Checksum(self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // The check value of CRC-64/NVME in the catalogue of CRC parameters.
        assert_eq!(Checksum::of(b"123456789"), Checksum(0xae8b_1486_0a79_9888));
        assert_eq!(Checksum::of(b"").to_string(), "AAAAAAAAAAA=");
    }

    #[test]
    fn text_and_back() {
        let sum = Checksum::of(b"hello");
        assert_eq!(sum.to_string().parse(), Ok(sum));
        assert!("xyz".parse::<Checksum>().is_err());
        assert!("AAAA".parse::<Checksum>().is_err());
    }
}
