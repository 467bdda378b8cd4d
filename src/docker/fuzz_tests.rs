//! What holds for the progress of a pull, whatever the engine says. See [`crate::fuzzing`].

use super::images::Heard;
use crate::limits;
use crate::wire::fuzz::Dice;
use crate::wire::scan::Json;

pub fn pull_progress(data: &[u8]) {
    let hear = |pieces: &[&[u8]]| {
        let mut heard = Heard::new("image");
        let result = pieces.iter().try_for_each(|piece| heard.take(piece)).and_then(|()| heard.finish());
        (result.map_err(|error| error.to_string()), heard.progress())
    };
    let (all, pieces) = Dice(data).pieces();
    let (result, progress) = hear(&[all]);
    let (in_pieces, progress_in_pieces) = hear(&pieces);
    assert_eq!(in_pieces, result);
    if result.is_ok() {
        assert_eq!(progress_in_pieces, progress);
    }
    assert!(progress.layers.0 <= progress.layers.1 && progress.layers.1 <= limits::PULL_LAYERS);
    // A line of JSON that says "error" is one, whatever else stands in it.
    for line in all.split(|&byte| byte == b'\n').filter(|line| line.len() < limits::PULL_LINE) {
        // What is nested too deep is not understood: then the engine is asked for the image.
        let is_deep = Json::strict(line).is_err();
        if let Ok(serde_json::Value::Object(line)) = serde_json::from_slice(line) {
            let says = |name: &str| line.get(name).is_some_and(|value| !value.is_null() && value != "");
            let says_error = !is_deep && (says("error") || says("errorDetail"));
            assert!(result.is_err() || !says_error, "a pull's error was passed over");
        }
    }
}
