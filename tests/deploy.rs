//! `deploy/` without a cluster: what `scripts/check-deploy` says of it. Where its Python packages are not to be had, the
//! test says so and is skipped.

use std::process::Command;

use tests::root;

/// The exit code of a check that could not be made.
const UNAVAILABLE: i32 = 77;

#[test]
fn manifests_rules_and_dashboard_are_valid() {
    let mut check = Command::new("python3");
    let ended = match check.arg(root().join("scripts/check-deploy")).output() {
        Ok(ended) => ended,
        Err(why) => return eprintln!("skipped: python3: {why}"),
    };
    let said =
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    if ended.status.code() == Some(UNAVAILABLE) {
        return eprintln!("skipped: {said}");
    }
    assert!(ended.status.success(), "{}\n{said}", ended.status);
    assert!(said.contains("check-deploy: all is well"), "{said}");
}
