//! What a snapshot file holds.

use quorate_node::snapshot::FileStatus;

use crate::go;
use crate::json::{Object, string};
use crate::print::{Show, Style, Text};
use crate::table::Table;

impl Show for FileStatus {
    fn simple(&self, _style: Style, out: &mut Text) {
        out.line(columns(self).join(", "));
    }

    fn json(&self, _style: Style) -> Option<String> {
        let json = Object::new()
            .raw("hash", self.hash)
            .raw("revision", self.revision)
            .raw("totalKey", self.keys)
            .raw("totalSize", self.bytes)
            .raw("version", string(&self.version));
        Some(json.build())
    }

    fn fields(&self, _style: Style, out: &mut Text) -> bool {
        out.field("Hash", self.hash);
        out.field("Revision", self.revision);
        out.field("Keys", self.keys);
        out.field("Size", self.bytes);
        out.field("Version", &self.version);
        true
    }

    fn table(&self, _style: Style) -> Option<String> {
        let mut table = Table::new(&["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"]);
        table.row(columns(self));
        Some(table.render())
    }
}

fn columns(status: &FileStatus) -> Vec<String> {
    vec![
        format!("{:x}", status.hash),
        status.revision.to_string(),
        status.keys.to_string(),
        go::format_size(status.bytes),
        status.version.clone(),
    ]
}
