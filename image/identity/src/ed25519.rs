//! The first steps of RFC 8032 that onion keys and SSH keys share: from a seed to an expanded key, from that to
//! the public key. Signing is left to Tor and OpenSSH.

use curve25519_dalek::edwards::EdwardsPoint;
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

/// A secret scalar (32 bytes, clamped) followed by the secret prefix of the nonces (32 bytes).
pub(crate) type Expanded = Box<Zeroizing<[u8; 64]>>;

/// Memory for an expanded key, placed on the heap first so that filling it leaves no copy elsewhere.
pub(crate) fn blank() -> Expanded {
    Box::new(Zeroizing::new([0; 64]))
}

/// Sets and clears the bits of a scalar that RFC 8032 §5.1.5 fixes.
pub(crate) fn clamp(scalar: &mut [u8]) {
    scalar[0] &= 0b1111_1000;
    scalar[31] &= 0b0111_1111;
    scalar[31] |= 0b0100_0000;
}

/// Whether the bits of RFC 8032 §5.1.5 stand as [`clamp`] leaves them.
pub(crate) fn is_clamped(scalar: &[u8]) -> bool {
    scalar[0] & 0b0000_0111 == 0 && scalar[31] & 0b1100_0000 == 0b0100_0000
}

/// Expands a seed with SHA-512 (RFC 8032 §5.1.5, steps 1 and 2).
pub(crate) fn expand(seed: &[u8; 32]) -> Expanded {
    let mut expanded = blank();
    let mut hash = Sha512::new();
    hash.update(seed);
    hash.finalize_into((&mut **expanded).into());
    clamp(&mut expanded[..32]);
    expanded
}

/// The public point of a clamped scalar, not yet in its 32 byte form.
pub(crate) fn public_point(scalar: &[u8; 32]) -> EdwardsPoint {
    EdwardsPoint::mul_base_clamped(*scalar)
}

/// The 32 byte public key of an expanded key.
pub(crate) fn public_key(expanded: &[u8; 64]) -> [u8; 32] {
    let mut scalar = Zeroizing::new([0; 32]);
    scalar.copy_from_slice(&expanded[..32]);
    public_point(&scalar).compress().to_bytes()
}
