//! Who a certificate says its owner is.

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// The common name in a DER-encoded certificate, if it is not empty: the last, if its subject has several, as Go reads them.
#[must_use]
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().last()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn name_in(names: &[&str]) -> Option<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        names.iter().for_each(|name| params.distinguished_name.push(DnType::CommonName, *name));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        common_name(certificate.der())
    }

    #[test]
    fn the_common_name_is_read_if_there_is_one() {
        assert_eq!(name_in(&["alice"]).as_deref(), Some("alice"));
        assert_eq!(name_in(&[]), None);
        assert_eq!(name_in(&[""]), None);
        assert_eq!(common_name(b"no certificate"), None);
    }
}
