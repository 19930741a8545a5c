//! Standard output of commands that print and end.

use std::io::{ErrorKind, Write as _};

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
