//! From the bytes of a settings file to text, with an answer for what editors do to files.
//!
//! Accepted as they are: UTF-8 with or without a byte order mark, lines ending in LF or CRLF.

use super::Problem;

/// Settings are short; whatever is longer is another file.
pub const MAX_SIZE: usize = 64 * 1024;

/// The text of a settings file, without byte order mark.
///
/// # Errors
/// A fitting answer for an empty file, a huge one, UTF-16, another encoding, or no text at all.
pub fn decode(bytes: &[u8]) -> Result<&str, Problem> {
    if bytes.len() > MAX_SIZE {
        return Err(too_large(bytes.len()));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || looks_like_utf16(bytes) {
        return Err(Problem::of_file(
            "the file is in UTF-16 (\"Unicode\" in Windows editors); save it again as UTF-8",
        ));
    }
    if bytes.contains(&0) {
        return Err(Problem::of_file("the file holds zero bytes, so it is not a text file"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
        let end = valid.len();
        Problem::at(valid, &(end..end), "this character is not UTF-8; save the file again as UTF-8")
    })?;
    if text.trim().is_empty() {
        return Err(Problem::of_file(
            "the file is empty; if it was cut short, copy it again, and to run with the defaults remove it",
        ));
    }
    Ok(text)
}

/// The answer to a file of `size` bytes, which need not have been read.
#[must_use]
pub fn too_large(size: usize) -> Problem {
    Problem::of_file(format!(
        "the file has {} KiB, settings have at most {} KiB; this seems to be another file",
        size.div_ceil(1024),
        MAX_SIZE / 1024
    ))
}

/// UTF-16 without a mark: every other byte of ASCII text is zero.
fn looks_like_utf16(bytes: &[u8]) -> bool {
    let pairs = bytes.chunks_exact(2);
    let half_empty = pairs.clone().filter(|pair| (pair[0] == 0) != (pair[1] == 0)).count();
    bytes.len() >= 4 && half_empty * 10 >= pairs.len() * 9
}

/// A quotation mark that a word processor put in place of a straight one.
#[must_use]
pub fn curly_quote(line: &str) -> Option<char> {
    line.chars().find(|c| matches!(c, '\u{2018}'..='\u{201f}' | '«' | '»'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> String {
        decode(bytes).unwrap_err().message
    }

    #[test]
    fn byte_order_mark_and_crlf_are_accepted() {
        assert_eq!(decode(b"\xef\xbb\xbf[mail]\r\n").unwrap(), "[mail]\r\n");
    }

    #[test]
    fn each_kind_of_wrong_file_gets_its_own_answer() {
        assert!(message(b"\xff\xfe[\0m\0").contains("UTF-16"));
        assert!(message(b"[\0m\0a\0i\0l\0]\0").contains("UTF-16"));
        assert!(message(b"PNG\0\0\0\x01xyzabc").contains("not a text file"));
        assert!(message(b"").contains("empty"));
        assert!(message(b"\r\n \n").contains("empty"));
        assert!(message(&vec![b'#'; 10 << 20]).contains("10240 KiB"));
    }

    #[test]
    fn latin_1_is_located() {
        let problem = decode(b"[owner]\nmailbox = \"r\xe9mi\"\n").unwrap_err();
        assert_eq!((problem.line, problem.column), (2, 13));
    }
}
