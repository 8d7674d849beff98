//! The endpoints of the Security Token Service: a fixed list, for whoever answers says who somebody is.

/// The regions whose endpoints are `sts.REGION.amazonaws.com`.
const REGIONS: [&str; 36] = [
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-gov-east-1",
    "us-gov-west-1",
    "us-west-1",
    "us-west-2",
];
/// Those in China, whose endpoints end otherwise.
const REGIONS_OF_CHINA: [&str; 2] = ["cn-north-1", "cn-northwest-1"];
/// Those that have a second endpoint with validated cryptography.
const REGIONS_WITH_FIPS: [&str; 4] = ["us-east-1", "us-east-2", "us-west-1", "us-west-2"];

/// Returns the endpoint of a region, as an agent in it takes it.
pub(super) fn of_region(region: &str) -> String {
    let end = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://sts.{region}.amazonaws.com{end}")
}

/// Reports whether an endpoint is one of AWS's own.
pub(super) fn is_of_aws(endpoint: &str) -> bool {
    let Some(host) = endpoint.strip_prefix("https://") else { return false };
    if host == "sts.amazonaws.com" {
        return true;
    }
    if let Some(region) = between(host, "sts.", ".amazonaws.com.cn") {
        return REGIONS_OF_CHINA.contains(&region);
    }
    between(host, "sts.", ".amazonaws.com").is_some_and(|region| REGIONS.contains(&region))
        || between(host, "sts-fips.", ".amazonaws.com").is_some_and(|region| REGIONS_WITH_FIPS.contains(&region))
}

fn between<'t>(text: &'t str, begin: &str, end: &str) -> Option<&'t str> {
    text.strip_prefix(begin)?.strip_suffix(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c11_the_list_of_endpoints_is_fixed() {
        for own in REGIONS.iter().chain(&REGIONS_OF_CHINA) {
            assert!(is_of_aws(&of_region(own)), "{own}");
        }
        assert!(is_of_aws("https://sts.amazonaws.com") && is_of_aws("https://sts-fips.us-east-1.amazonaws.com"));
        for other in [
            "http://sts.amazonaws.com",
            "https://sts.amazonaws.com.evil.example",
            "https://evil.example/sts.amazonaws.com",
            "https://sts.evil.amazonaws.com",
            "https://sts.eu-west-1.amazonaws.com/",
            "https://sts.eu-west-1.amazonaws.com:8443",
            "https://sts.eu-west-1.amazonaws.com.cn",
            "https://sts.eu-west-1.amazonaws.com@evil.example",
            "https://ec2.eu-west-1.amazonaws.com",
            "https://STS.amazonaws.com",
            "https://sts..amazonaws.com",
            "",
        ] {
            assert!(!is_of_aws(other), "{other}");
        }
    }
}
