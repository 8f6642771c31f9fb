//! QR codes as text, for terminals with a dark background.

use anyhow::{Context, Result};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// The code of a text in half blocks: two modules above each other per character. The light modules are the
/// drawn ones.
///
/// # Errors
/// When the text is longer than a code can hold.
pub fn code(text: &str) -> Result<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).context("making the QR code")?;
    let mut drawn = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .quiet_zone(true)
        .build();
    drawn.push('\n');
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_fits_beside_other_text_on_a_console() {
        let drawn = code(&format!("http://{}.onion", "a".repeat(56))).unwrap();
        assert!(drawn.lines().all(|line| line.chars().count() <= 45), "{drawn}");
        assert!(drawn.lines().count() <= 23);
    }
}
