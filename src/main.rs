//! The program. All of it is in the library, whose one entry this is.

use std::process::ExitCode;

fn main() -> ExitCode {
    cronium_agent::main()
}
