//! Client authorization: an onion service that only holders of a key can find (rend-spec-v3, "Client
//! behavior" of descriptor encryption; tor(1), "CLIENT AUTHORIZATION").
//!
//! The service keeps one file per client with the client's x25519 *public* key, in `authorized_clients/`; the
//! client keeps the *secret* key, in a file of its own Tor or in Tor Browser.
//!
//! **Tor fails open.** It skips every file that it cannot read or understand, and a service with no valid file
//! left is open to everybody who knows its address. So [`check_folder`] is stricter than Tor: whatever Tor
//! would skip is an error here, and so is an empty folder.

use crate::onion::{AddressError, OnionAddress};
use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::traits::IsIdentity;
use data_encoding::BASE32_NOPAD;
use rand_core::CryptoRng;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;
use zeroize::Zeroizing;

/// Characters of a 32 byte key in base32 without padding.
const KEY_LEN: usize = 52;
/// What Tor appends to the names of the files it reads in `authorized_clients/`.
const EXTENSION: &str = ".auth";

/// The secret key of one client.
pub struct ClientAuth {
    secret: Box<Zeroizing<[u8; 32]>>,
}

/// The public key of one client, as the service knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorizedClient {
    public: [u8; 32],
}

/// The name under which the owner knows a client, such as `laptop`: 1 to 32 of `a` to `z`, `0` to `9` and `-`,
/// beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientName(String);

/// Why a name cannot be given to a client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{name:?} cannot name a client: use 1 to 32 of a to z, 0 to 9 and -, beginning with a letter or digit"
)]
pub struct NameError {
    name: String,
}

/// Why a client authorization file is not one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Nothing but white space.
    #[error("the file is empty")]
    Empty,
    /// More than one line.
    #[error("the file has more than one line; each client needs a file of its own")]
    Lines,
    /// Another number of fields between colons.
    #[error("the line must read {form}, in {expected} fields; this one has {got}")]
    Fields {
        /// The form of the line.
        form: &'static str,
        /// Fields that the line must have.
        expected: usize,
        /// Fields that it has.
        got: usize,
    },
    /// Not the one kind of authorization that exists.
    #[error("the authorization type is {got:?}, only \"descriptor\" is known")]
    AuthType {
        /// The field found.
        got: String,
    },
    /// Not the one kind of key that exists.
    #[error("the key type is {got:?}, only \"x25519\" is known")]
    KeyType {
        /// The field found.
        got: String,
    },
    /// The key has another length.
    #[error("the key must have {KEY_LEN} characters, this one has {got}")]
    KeyLength {
        /// Characters of the key.
        got: usize,
    },
    /// The key is no base32, or its last character carries stray bits.
    #[error(
        "the key is not base32: only A to Z and 2 to 7 are, and the last character is wrong if no other is"
    )]
    KeyAlphabet,
    /// A key with which anybody could decrypt.
    #[error("the key is one of the few weak x25519 keys, which protect nothing")]
    WeakKey,
    /// The address in a client's file.
    #[error("the address in the file is wrong: {0}")]
    Address(#[from] AddressError),
}

/// One thing wrong with an `authorized_clients/` folder.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FolderProblem {
    /// No client: Tor would serve everybody.
    #[error("no client is authorized, so tor would leave the service open to everybody")]
    Open,
    /// A file that Tor would skip because of its name.
    #[error("{file}: tor ignores this file; its name must be that of a client, ending in {EXTENSION}")]
    FileName {
        /// Name of the file.
        file: String,
    },
    /// A file that Tor would skip because of its content, or that grants nothing safe.
    #[error("{file}: {problem}")]
    Content {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        problem: FormatError,
    },
}

impl ClientAuth {
    /// Makes a new key.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut secret = Box::new(Zeroizing::new([0; 32]));
        rng.fill_bytes(&mut **secret);
        Self { secret }
    }

    /// The public key, for the service.
    #[must_use]
    pub fn public(&self) -> AuthorizedClient {
        AuthorizedClient { public: MontgomeryPoint::mul_base_clamped(**self.secret).to_bytes() }
    }

    /// The secret key as Tor Browser asks for it.
    #[must_use]
    pub fn private_key(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE32_NOPAD.encode(&**self.secret))
    }

    /// The content of a file for the client's own Tor, to be put into its `ClientOnionAuthDir` under a name
    /// ending in `.auth_private`.
    #[must_use]
    pub fn client_file(&self, service: &OnionAddress) -> Zeroizing<String> {
        Zeroizing::new(format!("{}:descriptor:x25519:{}\n", service.label(), *self.private_key()))
    }

    /// Reads a file made by [`ClientAuth::client_file`], or by hand in the same form.
    ///
    /// # Errors
    /// Says what is wrong with the file, see [`FormatError`].
    pub fn parse_client_file(text: &str) -> Result<(OnionAddress, Self), FormatError> {
        let [label, auth_type, key_type, key] = fields(text, "ADDRESS:descriptor:x25519:KEY")?;
        check_types(auth_type, key_type)?;
        let service = OnionAddress::from_label(label)?;
        let mut secret = Box::new(Zeroizing::new([0; 32]));
        decode_key(key, &mut secret)?;
        Ok((service, Self { secret }))
    }
}

impl AuthorizedClient {
    /// The content of the file that authorizes this client, for `authorized_clients/`.
    #[must_use]
    pub fn service_file(&self) -> String {
        format!("descriptor:x25519:{}\n", BASE32_NOPAD.encode(&self.public))
    }

    /// Reads the content of one file in `authorized_clients/`.
    ///
    /// # Errors
    /// If Tor would not read it to the same key, or the key protects nothing; see [`FormatError`].
    pub fn parse_service_file(text: &str) -> Result<Self, FormatError> {
        let [auth_type, key_type, key] = fields(text, "descriptor:x25519:KEY")?;
        check_types(auth_type, key_type)?;
        let mut public = [0; 32];
        decode_key(key, &mut public)?;
        // A point of small order gives the same shared secret with every key, one that everybody knows.
        if MontgomeryPoint(public).mul_clamped([0x55; 32]).is_identity() {
            return Err(FormatError::WeakKey);
        }
        Ok(Self { public })
    }

    /// The x25519 public key.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.public
    }
}

/// Decides whether an `authorized_clients/` folder protects its service, given the name and content of every
/// file in it, and lists the clients.
///
/// # Errors
/// Every problem found. The service must then stay down: Tor would skip the files named here, and without any
/// other it would admit everybody.
pub fn check_folder<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<(ClientName, AuthorizedClient)>, Vec<FolderProblem>> {
    let (mut clients, mut problems) = (Vec::new(), Vec::new());
    for (file, content) in files {
        match check_file(file, content) {
            Ok(client) => clients.push(client),
            Err(problem) => problems.push(problem),
        }
    }
    if clients.is_empty() {
        problems.push(FolderProblem::Open);
    }
    if problems.is_empty() { Ok(clients) } else { Err(problems) }
}

fn check_file(file: &str, content: &str) -> Result<(ClientName, AuthorizedClient), FolderProblem> {
    let name = file.strip_suffix(EXTENSION).and_then(|name| name.parse().ok());
    let name = name.ok_or_else(|| FolderProblem::FileName { file: file.to_owned() })?;
    let client = AuthorizedClient::parse_service_file(content)
        .map_err(|problem| FolderProblem::Content { file: file.to_owned(), problem })?;
    Ok((name, client))
}

/// The fields of the only line of a file.
fn fields<'a, const N: usize>(text: &'a str, form: &'static str) -> Result<[&'a str; N], FormatError> {
    let line = text.trim_matches([' ', '\t', '\r', '\n']);
    if line.is_empty() {
        return Err(FormatError::Empty);
    }
    if line.contains(['\r', '\n']) {
        return Err(FormatError::Lines);
    }
    let fields: Vec<&str> = line.split(':').collect();
    fields.try_into().map_err(|fields: Vec<_>| FormatError::Fields { form, expected: N, got: fields.len() })
}

fn check_types(auth_type: &str, key_type: &str) -> Result<(), FormatError> {
    if auth_type != "descriptor" {
        return Err(FormatError::AuthType { got: auth_type.to_owned() });
    }
    if key_type != "x25519" {
        return Err(FormatError::KeyType { got: key_type.to_owned() });
    }
    Ok(())
}

/// Reads a key in base32 of either case into `key`.
fn decode_key(text: &str, key: &mut [u8; 32]) -> Result<(), FormatError> {
    let got = text.chars().count();
    if got != KEY_LEN {
        return Err(FormatError::KeyLength { got });
    }
    let upper = Zeroizing::new(text.to_ascii_uppercase());
    // The decoder wants room for whole blocks even where the last one is short.
    let mut room = Zeroizing::new([0; 40]);
    let room = &mut room[..BASE32_NOPAD.decode_len(upper.len()).map_err(|_| FormatError::KeyAlphabet)?];
    match BASE32_NOPAD.decode_mut(upper.as_bytes(), room) {
        Ok(32) => key.copy_from_slice(&room[..32]),
        _ => return Err(FormatError::KeyAlphabet),
    }
    Ok(())
}

impl ClientName {
    /// The name of the client's file in `authorized_clients/`.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}{EXTENSION}", self.0)
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=32).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if fits { Ok(Self(text.to_owned())) } else { Err(NameError { name: text.to_owned() }) }
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for AuthorizedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorizedClient({})", BASE32_NOPAD.encode(&self.public))
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientAuth(…)")
    }
}
