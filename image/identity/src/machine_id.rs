//! The machine ID: 128 random bits that tell this installation from every other, for systemd and D-Bus.
//!
//! machine-id(5) asks that it stay on the machine; it goes into no mail header, file name or announcement.

use data_encoding::HEXLOWER;
use rand_core::CryptoRng;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A machine ID as machine-id(5) defines it, with the version and variant bits of a random UUID.
#[derive(Clone, PartialEq, Eq)]
pub struct MachineId([u8; 16]);

/// Why a text is not a machine ID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a machine ID is 32 characters of 0 to 9 and a to f, not all zero")]
pub struct MachineIdError;

impl MachineId {
    /// Makes a new machine ID.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// The content of `/etc/machine-id`: the ID and a newline.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{self}\n")
    }
}

impl FromStr for MachineId {
    type Err = MachineIdError;

    /// Reads an ID, with or without the newline at the end of its file. IDs of other makers need not have the
    /// bits of a random UUID.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| MachineIdError)?;
        let bytes: [u8; 16] = bytes.try_into().map_err(|_| MachineIdError)?;
        if bytes == [0; 16] { Err(MachineIdError) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MachineId(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_core::SeedableRng;

    proptest! {
        #[test]
        fn generated_ids_have_the_form_of_a_random_uuid(seed: [u8; 32]) {
            let id = MachineId::generate(&mut rand_chacha::ChaCha20Rng::from_seed(seed));
            let text = id.to_string();
            prop_assert_eq!(text.len(), 32);
            prop_assert_eq!(&text[12..13], "4");
            prop_assert!(matches!(&text[16..17], "8" | "9" | "a" | "b"));
            prop_assert_eq!(id.file().parse::<MachineId>(), Ok(id));
        }
    }

    #[test]
    fn wrong_ids_are_refused() {
        let good = "0123456789abcdef0123456789abcdef";
        assert!(good.parse::<MachineId>().is_ok());
        let upper = good.to_uppercase();
        let dashed = "01234567-89ab-cdef-0123-456789abcdef";
        let zero = "0".repeat(32);
        for bad in ["", "uninitialized", &good[1..], &upper, dashed, &zero, &format!("{good}\n\n")] {
            assert_eq!(bad.parse::<MachineId>(), Err(MachineIdError), "{bad:?}");
        }
    }
}
