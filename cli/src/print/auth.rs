//! Users, roles, permissions.

use prost::Message;
use quorate_api::authpb::Permission;
use quorate_api::authpb::permission::Type;
use quorate_api::etcdserverpb::{
    AuthRoleGetResponse, AuthRoleListResponse, AuthStatusResponse, AuthUserGetResponse, AuthUserListResponse,
    ResponseHeader,
};

use crate::commands::prefix_end;
use crate::go;
use crate::json::{self, Object};
use crate::print::{Show, Style, Text, encode, header_json};

/// A change that is answered by a header alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// What has changed, for people.
    pub text: String,
    /// The header.
    pub header: Option<ResponseHeader>,
    /// The whole response, encoded.
    pub message: Vec<u8>,
}

impl Changed {
    /// `text` says what `response`, which has this `header`, answers.
    pub fn new(text: String, header: Option<ResponseHeader>, response: &impl Message) -> Self {
        Self { text, header, message: response.encode_to_vec() }
    }
}

impl Show for Changed {
    fn simple(&self, _style: Style, out: &mut Text) {
        out.line(&self.text);
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(Object::new().some("header", header_json(self.header.as_ref())).build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.header.as_ref(), style);
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.message.clone())
    }
}

impl Show for AuthStatusResponse {
    fn simple(&self, _style: Style, out: &mut Text) {
        out.line(format!("Authentication Status: {}", self.enabled));
        out.line(format!("AuthRevision: {}", self.auth_revision));
    }

    fn json(&self, _style: Style) -> Option<String> {
        let object = Object::new().some("header", header_json(self.header.as_ref())).flag("enabled", self.enabled);
        Some(object.number("authRevision", self.auth_revision).build())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(self)
    }
}

/// A user and its roles.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// The response.
    pub response: AuthUserGetResponse,
}

impl Show for User {
    fn simple(&self, _style: Style, out: &mut Text) {
        out.line(format!("User: {}", self.name));
        let roles = self.response.roles.iter().map(|role| format!(" {role}")).collect::<String>();
        out.line(format!("Roles:{roles}"));
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(names("roles", self.response.header.as_ref(), &self.response.roles))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(&self.response)
    }
}

fn names(name: &str, header: Option<&ResponseHeader>, list: &[String]) -> String {
    let object = Object::new().some("header", header_json(header));
    let list = (!list.is_empty()).then(|| json::list(list.iter().map(|name| json::string(name))));
    object.some(name, list).build()
}

impl Show for AuthUserListResponse {
    fn simple(&self, _style: Style, out: &mut Text) {
        self.users.iter().for_each(|user| out.line(user));
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(names("users", self.header.as_ref(), &self.users))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(self)
    }
}

impl Show for AuthRoleListResponse {
    fn simple(&self, _style: Style, out: &mut Text) {
        self.roles.iter().for_each(|role| out.line(role));
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(names("roles", self.header.as_ref(), &self.roles))
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.header.as_ref(), style);
        let roles = self.roles.iter().map(|role| format!(" {}", go::quote(role.as_bytes()))).collect::<String>();
        out.line(format!("\"Roles\" :{roles}"));
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(self)
    }
}

/// A role and its permissions.
#[derive(Clone, Debug, PartialEq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// The response.
    pub response: AuthRoleGetResponse,
}

impl Show for Role {
    fn simple(&self, _style: Style, out: &mut Text) {
        out.line(format!("Role {}", self.name));
        for (title, wanted) in [("KV Read:", Type::Read), ("KV Write:", Type::Write)] {
            out.line(title);
            let allows = |perm: &&Permission| [wanted as i32, Type::Readwrite as i32].contains(&perm.perm_type);
            for perm in self.response.perm.iter().filter(allows) {
                out.line(range(perm));
            }
        }
    }

    fn json(&self, _style: Style) -> Option<String> {
        let object = Object::new().some("header", header_json(self.response.header.as_ref()));
        let perm = |perm: &Permission| {
            let object = Object::new().number("permType", perm.perm_type).bytes("key", &perm.key);
            object.bytes("range_end", &perm.range_end).build()
        };
        let list = (!self.response.perm.is_empty()).then(|| json::list(self.response.perm.iter().map(perm)));
        Some(object.some("perm", list).build())
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.response.header.as_ref(), style);
        for perm in &self.response.perm {
            let kind = Type::try_from(perm.perm_type)
                .map_or_else(|_| perm.perm_type.to_string(), |kind| kind.as_str_name().to_owned());
            // Two blanks, as etcdctl has it.
            out.field("PermType", format!(" {kind}"));
            out.field("Key", go::quote(&perm.key));
            out.field("RangeEnd", go::quote(&perm.range_end));
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(&self.response)
    }
}

/// One permission's keys on a line.
fn range(perm: &Permission) -> Vec<u8> {
    let (key, end) = (&perm.key[..], &perm.range_end[..]);
    let mut line = b"\t".to_vec();
    match end {
        [] => line.extend_from_slice(key),
        [0] => line.extend([b"[", key, b", <open ended>"].concat()),
        _ => line.extend([b"[", key, b", ", end, b")"].concat()),
    }
    if !key.is_empty() && !end.is_empty() && prefix_end(key) == end {
        line.extend([&b" (prefix "[..], key, b")"].concat());
    }
    line
}
