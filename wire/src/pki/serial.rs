//! Serial numbers of leaves.

use std::fmt;
use std::str::FromStr;

use catalog::CatalogIndex;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::crypto;

/// A leaf's serial number, 16 octets: the log index of the entitlement that it was signed from, and 8 random ones.
///
/// The index names the agent record, so that what is revoked by record is refused by serial.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 16]);

impl Serial {
    /// Draws a serial for a leaf signed from the record that was enrolled at `index`.
    pub fn draw(index: CatalogIndex) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&index.0.to_be_bytes());
        bytes[8..].copy_from_slice(&crypto::random::<8>());
        Self(bytes)
    }

    /// Returns the index at which the record was enrolled that the leaf was signed from.
    pub fn index(&self) -> CatalogIndex {
        let (index, _) = self.0.split_first_chunk().expect("8 octets are the first of 16");
        CatalogIndex(u64::from_be_bytes(*index))
    }

    /// Returns the serial as tools print it: octets with colons between them, without the zeros at its start.
    pub fn to_colons(&self) -> String {
        let first = self.0.iter().position(|octet| *octet != 0).unwrap_or(self.0.len() - 1);
        let octets: Vec<String> = self.0[first..].iter().map(|octet| format!("{octet:02x}")).collect();
        octets.join(":")
    }

    /// Returns the 16 octets.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads the content of a DER integer, which drops leading zeros and adds one before a high bit.
    ///
    /// Returns nothing for a number that is not positive or has more than 16 octets, which weft never issues.
    pub(crate) fn from_der_integer(content: &[u8]) -> Option<Self> {
        let magnitude = match content {
            [0, rest @ ..] => rest,
            [first, ..] if *first >= 0x80 => return None,
            all => all,
        };
        let mut bytes = [0; 16];
        let start = bytes.len().checked_sub(magnitude.len())?;
        bytes[start..].copy_from_slice(magnitude);
        (bytes != [0; 16]).then_some(Self(bytes))
    }
}

/// A text is not a serial number of weft's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no serial number; use 1 to 16 octets in hexadecimal, with or without colons")]
pub struct SerialError;

impl From<[u8; 16]> for Serial {
    fn from(octets: [u8; 16]) -> Self {
        Self(octets)
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    /// Reads a serial number as tools print it; zeros at its start may be missing.
    fn from_str(text: &str) -> Result<Self, SerialError> {
        let digits: String = text.chars().filter(|character| *character != ':').collect();
        let digits = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
        let magnitude = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| SerialError)?;
        let mut bytes = [0; 16];
        let start = bytes.len().checked_sub(magnitude.len()).ok_or(SerialError)?;
        bytes[start..].copy_from_slice(&magnitude);
        if bytes == [0; 16] { Err(SerialError) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Serial({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_names_the_record_that_it_was_signed_from() {
        let serial = Serial::draw(CatalogIndex(4711));
        assert_eq!(serial.index(), CatalogIndex(4711));
        assert_ne!(serial, Serial::draw(CatalogIndex(4711)));
        assert_eq!(serial.to_string().len(), 32);
    }

    #[test]
    fn a_serial_is_read_as_tools_print_it() {
        let serial = Serial::draw(CatalogIndex(4711));
        assert_eq!(serial.to_colons().parse(), Ok(serial));
        assert_eq!(serial.to_string().to_uppercase().parse(), Ok(serial));
        assert_eq!("1:00".parse::<Serial>().unwrap().to_colons(), "01:00");
        for text in ["", "0", "00:00", "x1", &"01".repeat(17)] {
            assert_eq!(text.parse::<Serial>(), Err(SerialError), "{text}");
        }
    }

    #[test]
    fn der_integers_are_padded_to_16_octets() {
        let mut with_index_one = [0; 16];
        with_index_one[7] = 1;
        let mut high = [0; 17];
        high[1] = 0x80;
        let rows: [(&[u8], Option<[u8; 16]>); 7] = [
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0], Some(with_index_one)),
            (&high, Some(high[1..].try_into().unwrap())),
            (&[0x80], None),
            (&[0], None),
            (&[], None),
            (&[1; 16], Some([1; 16])),
            (&[1; 17], None),
        ];
        for (content, want) in rows {
            assert_eq!(Serial::from_der_integer(content), want.map(Serial), "{content:?}");
        }
    }
}
