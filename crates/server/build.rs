//! Sees to it that the folder of the web app is there, empty where Node has not run, and that a new app is embedded.

fn main() {
    let folder = std::path::Path::new("../../web/build");
    // Nothing is lost where this does not succeed: the macro that embeds the folder names it.
    std::fs::create_dir_all(folder).ok();
    println!("cargo:rerun-if-changed=../../web/build");
}
