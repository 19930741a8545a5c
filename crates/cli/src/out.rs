//! Standard output of commands that print and end.

use std::io::{ErrorKind, Write as _};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Prints a line. Where nobody reads any more the command ends in silence, as others do; where the line cannot be
/// written for another reason it ends with a sentence.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::out::line(format_args!($($words)*))
    };
}
pub(crate) use say;

/// [`say!`].
pub fn line(words: std::fmt::Arguments<'_>) {
    match writeln!(std::io::stdout(), "{words}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("codegen: writing to standard output: {error}");
            std::process::exit(1);
        }
    }
}

/// As much of a line as there is room for in so many columns; some characters take two, and some none.
pub fn fitted(line: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = line.char_indices().find(|(_, c)| {
        used += c.width().unwrap_or(0);
        used > columns
    });
    end.map_or(line, |(end, _)| line.get(..end).unwrap_or(line))
}

/// A line with spaces after it, up to so many columns.
pub fn padded(line: &str, columns: usize) -> String {
    format!("{line}{}", " ".repeat(columns.saturating_sub(line.width())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_wide_as_a_terminal_shows_it() {
        assert_eq!(fitted("abc", 2), "ab");
        assert_eq!(fitted("修复测试", 5), "修复");
        assert_eq!(fitted("e\u{301}e\u{301}x", 2), "e\u{301}e\u{301}", "accents take no column of their own");
        assert_eq!((padded("修复", 6), padded("abc", 2)), ("修复  ".to_owned(), "abc".to_owned()));
    }
}
