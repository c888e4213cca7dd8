//! The one binary of Tally, `tally`: node, gateway, trials and every command.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
