//! What the running image says of itself: os-release(5).
//!
//! Reads only `/usr/lib/os-release`, which belongs to the read-only slot; never `/etc`.

use anyhow::{Context, Result};
use camino::Utf8Path;

use crate::fs::Fs;

/// Where the image keeps its description.
pub const OS_RELEASE: &str = "/usr/lib/os-release";

/// The identity of an image, as the builder wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `IMAGE_ID`: the recipe's name.
    pub name: Option<String>,
    /// `IMAGE_VERSION`: the recipe's version.
    pub version: Option<String>,
    /// `BUILD_ID`: differs whenever the content of the image differs.
    pub build: Option<String>,
}

impl Image {
    /// Parses the text of os-release(5). Unknown lines are not ours to judge and are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut image = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            let field = match key.trim() {
                "IMAGE_ID" => &mut image.name,
                "IMAGE_VERSION" => &mut image.version,
                "BUILD_ID" => &mut image.build,
                _ => continue,
            };
            *field = Some(unquote(value.trim()).to_owned()).filter(|v| !v.is_empty());
        }
        image
    }

    /// Reads the description of the image below `fs`'s root; an image without one has no name.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn load(fs: &dyn Fs) -> Result<Self> {
        let bytes = fs.read(Utf8Path::new(OS_RELEASE)).context("reading the image's description")?;
        Ok(bytes.map(|b| Self::parse(&String::from_utf8_lossy(&b))).unwrap_or_default())
    }
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_with_and_without_quotes() {
        let image = Image::parse("NAME=x\nIMAGE_ID=mail\nIMAGE_VERSION=\"0.1.0\"\nBUILD_ID='abc'\n# no\n");
        assert_eq!(image.name.as_deref(), Some("mail"));
        assert_eq!(image.version.as_deref(), Some("0.1.0"));
        assert_eq!(image.build.as_deref(), Some("abc"));
    }

    #[test]
    fn an_empty_value_counts_as_absent() {
        assert_eq!(Image::parse("BUILD_ID=\n").build, None);
    }
}
