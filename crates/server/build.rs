//! Sees to it that the folder of the web app is there, empty where Node has not run, and that a release embeds a new app.

fn main() {
    let folder = std::path::Path::new("../../web/build");
    // Nothing is lost where this does not succeed: the macro that embeds the folder names it.
    std::fs::create_dir_all(folder).ok();
    // A debug build reads the files when they are asked for and need not be made anew.
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    println!("cargo:rerun-if-changed={}", if release { "../../web/build" } else { "build.rs" });
}
