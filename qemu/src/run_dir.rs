//! The folder of one run: sockets while the machine lives, logs for ever.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Longest path of a Unix socket: 108 bytes with the final NUL (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;

/// A run directory. Sockets and credentials are in it, so nobody else may enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Creates the folder if it is not there. A machine started in it replaces what an earlier one left.
    ///
    /// # Errors
    /// When the folder cannot be made, or its path is too long for sockets in it.
    pub fn create(path: &Path) -> Result<Self> {
        let dir = Self(std::path::absolute(path).map_err(Error::io("finding", path))?);
        let longest = dir.serial_socket();
        if longest.as_os_str().len() > SOCKET_PATH_LIMIT {
            return Err(Error::PathTooLong { path: dir.0, limit: SOCKET_PATH_LIMIT });
        }
        fs_err::create_dir_all(&dir.0).map_err(Error::io("creating", path))?;
        let mode = std::fs::Permissions::from_mode(0o700);
        fs_err::set_permissions(&dir.0, mode).map_err(Error::io("closing to others", path))?;
        Ok(dir)
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file of this folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Everything the serial port said.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.file("console.log")
    }

    /// QEMU's control socket, both directions.
    #[must_use]
    pub fn qmp_log(&self) -> PathBuf {
        self.file("qmp.log")
    }

    /// What QEMU itself wrote to its standard streams.
    #[must_use]
    pub fn qemu_log(&self) -> PathBuf {
        self.file("qemu.log")
    }

    /// The command line, for the shell.
    #[must_use]
    pub fn argv_file(&self) -> PathBuf {
        self.file("argv.txt")
    }

    /// Socket of the serial port.
    #[must_use]
    pub fn serial_socket(&self) -> PathBuf {
        self.file("serial.sock")
    }

    /// Socket of QEMU's control protocol.
    #[must_use]
    pub fn qmp_socket(&self) -> PathBuf {
        self.file("qmp.sock")
    }

    /// Socket of the injected shell.
    #[must_use]
    pub fn shell_socket(&self) -> PathBuf {
        self.file("shell.sock")
    }

    /// The disk's writable layer.
    #[must_use]
    pub fn overlay(&self) -> PathBuf {
        self.file("disk.qcow2")
    }

    /// The record of all that a machine did to its disk ([`crate::WriteLog`]).
    #[must_use]
    pub fn write_log(&self) -> PathBuf {
        self.file("writes.log")
    }

    /// The machine's own copy of the UEFI variables.
    #[must_use]
    pub fn vars(&self) -> PathBuf {
        self.file("vars.fd")
    }

    /// Folder of the files that carry credentials.
    #[must_use]
    pub fn credentials(&self) -> PathBuf {
        self.file("credentials")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_private_and_checks_the_socket_limit() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::create(&folder.path().join("run")).unwrap();
        let mode = fs_err::metadata(dir.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let error = RunDir::create(&folder.path().join("x".repeat(120))).unwrap_err();
        assert!(error.to_string().contains("shorter path"), "{error}");
    }
}
