//! Where things are on the appliance, in one place.
//!
//! `/var/lib/cipolla` can be passed through by all (daemons read their part of it); what only root may read
//! is in `private`.

/// The agent's state.
pub const STATE: &str = "/var/lib/cipolla";
/// Its part for root alone.
pub const PRIVATE: &str = "/var/lib/cipolla/private";
/// One-time credentials, until the owner acknowledges them.
pub const CREDENTIALS: &str = "/var/lib/cipolla/private/credentials";
/// Says for which roles the identity was completed once; written last.
pub const MARKER: &str = "/var/lib/cipolla/private/complete";
/// Settings that were accepted.
pub const ACCEPTED_SETTINGS: &str = "/var/lib/cipolla/private/settings.toml";
/// What was rendered last, with hashes.
pub const RENDERED: &str = "/var/lib/cipolla/private/rendered.json";
/// Certificates and keys for the servers.
pub const TLS: &str = "/var/lib/cipolla/tls";
/// Mailboxes and tables.
pub const MAIL: &str = "/var/lib/cipolla/mail";
/// What the web server reads.
pub const WEB: &str = "/var/lib/cipolla/web";
/// Dovecot's passwd-file.
pub const USERS: &str = "/var/lib/cipolla/mail/users";
/// The owner's aliases and mailing lists.
pub const ADDRESSES: &str = "/var/lib/cipolla/mail/addresses.toml";
/// nginx's `auth_basic_user_file`.
pub const HTPASSWD: &str = "/var/lib/cipolla/web/htpasswd";
/// Roundcube's session key.
pub const DES_KEY: &str = "/var/lib/cipolla/web/des_key";
/// The owner's SSH keys.
pub const AUTHORIZED_KEYS: &str = "/root/.ssh/authorized_keys";
/// The SSH server's host key (`HostKey` in `sshd_config(5)`).
pub const SSH_HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
/// Its public half.
pub const SSH_HOST_PUBLIC_KEY: &str = "/etc/ssh/ssh_host_ed25519_key.pub";
/// What lives in memory only.
pub const RUN: &str = "/run/cipolla";
/// Where the boot partition is mounted while the agent needs it.
pub const BOOT: &str = "/run/cipolla/boot";
/// The owner's settings on the boot partition.
pub const BOOT_SETTINGS: &str = "/run/cipolla/boot/cipolla.toml";
/// The same once they were accepted, about to be overwritten and removed.
pub const BOOT_WIPING: &str = "/run/cipolla/boot/cipolla.accepted";
/// What is wrong with them.
pub const BOOT_ERRORS: &str = "/run/cipolla/boot/ERRORS.txt";
/// Addresses for the owner.
pub const BOOT_WELCOME: &str = "/run/cipolla/boot/WELCOME.txt";
/// The certificate of the appliance's authority, to import into mail programs.
pub const BOOT_AUTHORITY: &str = "/run/cipolla/boot/CIPOLLA-CA.crt";
/// Credentials, encrypted to the owner's key.
pub const BOOT_CREDENTIALS: &str = "/run/cipolla/boot/credentials.age";
/// What getty shows above the login prompt.
pub const CONSOLE: &str = "/run/cipolla/issue";
/// What getty shows below it, as long as something needs the owner's hands.
pub const NOTICE: &str = "/run/cipolla/notice";
/// What the watch over Tor remembers.
pub const WATCH: &str = "/run/cipolla/watch.json";
/// There as long as servers were not told of certificates that were made anew.
pub const RENEWED: &str = "/run/cipolla/renewed";
/// Defaults of this image.
pub const DEFAULTS: &str = "/usr/lib/cipolla/defaults.toml";
/// Templates, each under its target's path.
pub const TEMPLATES: &str = "/usr/share/cipolla/templates";
