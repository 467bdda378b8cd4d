#!/usr/bin/env perl
# openssl-prune.pl FOLDER: cuts a copy of OpenSSL's source down to what libssh2 calls.
#
# OpenSSL looks its algorithms up by name, in tables that name every one of them: so the linker must keep them all, and
# Configure's own switches reach only some. Here the tables lose the entries that nobody looks up, and the linker does
# the rest. An entry that is meant to stay and is not found is an error: another release of OpenSSL is then read again.
use strict;
use warnings;

my $root = shift or die "openssl-prune.pl: which folder?\n";

# What stays in the default provider's tables, by the names of the dispatch tables.
my @provider = qw(
    sha1 sha256 sha384 sha512 md5
    sha3_256 sha3_512 shake_128 shake_256
    aes256ecb
    aes256cbc aes192cbc aes128cbc aes256ctr aes192ctr aes128ctr aes256gcm aes128gcm
    hmac kdf_pbkdf2
    ecdh_keyexch x25519_keyexch
    drbg_ctr seed_src
    rsa_signature ed25519_signature ecdsa_signature
    ml_kem_asym_kem
    rsa_keymgmt ec_keymgmt x25519_keymgmt ed25519_keymgmt ml_kem_768_keymgmt ml_kem_1024_keymgmt
);
# md5: the key of a passphrase in an old PEM file. sha3, shake: inside ML-KEM. aes256ecb: inside the random generator.

# keep FILE, START, ENTRY, WANTED...: in FILE, between the line that matches START and the end of that block, drops
# every entry (ENTRY matches a whole one, and captures its name) but the WANTED.
sub keep {
    my ($file, $start, $entry, @wanted) = @_;
    my $text = read_file($file);
    my %left = map { $_ => 1 } @wanted;
    my $dropped = 0;
    my $cut = sub {
        my ($whole, $name) = @_;
        if (exists $left{$name}) { $left{$name} = 0; return $whole }
        $dropped++;
        return '';
    };
    $text =~ s{($start)(.*?)(^\}|\z)}{
        my ($head, $body, $tail) = ($1, $2, $3);
        $body =~ s/($entry)/$cut->($1, $2)/gem;
        $head . $body . $tail;
    }gems;
    my @missing = grep { $left{$_} } sort keys %left;
    die "openssl-prune.pl: $file: not found: @missing\n" if @missing;
    die "openssl-prune.pl: $file: nothing to drop\n" unless $dropped;
    write_file($file, $text);
    print "$file: $dropped entries dropped\n";
}

# replace FILE, WHAT, BY: every match, and at least one.
sub replace {
    my ($file, $what, $by) = @_;
    my $text = read_file($file);
    my $count = $text =~ s/$what/$by/gm;
    die "openssl-prune.pl: $file: no match for $what\n" unless $count;
    write_file($file, $text);
    print "$file: $count replaced\n";
}

sub read_file {
    open my $in, '<', "$root/$_[0]" or die "openssl-prune.pl: $root/$_[0]: $!\n";
    local $/;
    return scalar <$in>;
}

sub write_file {
    open my $out, '>', "$root/$_[0]" or die "openssl-prune.pl: $root/$_[0]: $!\n";
    print $out $_[1];
    close $out or die "openssl-prune.pl: $root/$_[0]: $!\n";
}

keep('providers/defltprov.c', '^static const OSSL_ALGORITHM(?:_CAPABLE)? deflt_\w+\[\] = \{',
    '^[ ]{4}(?:\{|ALGC?\()[^{};]*?\bossl_(\w+?)_functions\b[^;{}]*?(?:\}|\)),\n', @provider);
# Groups for TLS.
replace('providers/defltprov.c', '\{ OSSL_FUNC_PROVIDER_GET_CAPABILITIES,\s*\(void \(\*\)\(void\)\)ossl_prov_get_capabilities \},\n', '');
# Private keys out of PEM: PKCS#8, plain and encrypted, and the older forms of RSA and EC.
keep('providers/decoders.inc', '\A', '^DECODER\w*\((.*?)(?:, (?:yes|no))\),?\n',
    '"EC", der, PrivateKeyInfo, ec', '"EC", der, type_specific_no_pub, ec', '"EC", der, EC, ec',
    '"ED25519", der, PrivateKeyInfo, ed25519',
    '"RSA", der, PrivateKeyInfo, rsa', '"RSA", der, type_specific_keypair, rsa', '"RSA", der, RSA, rsa',
    '"DER", pem, der', '"DER", der, EncryptedPrivateKeyInfo, der');
# Nothing is written, and no key is named by a URI.
keep('providers/encoders.inc', '\A', '^ENCODER\w*\((.*?)\),?\n');
keep('providers/stores.inc', '\A', '^STORE\("(\w+)".*?\)\n');
keep('crypto/provider_predefined.c', '^const OSSL_PROVIDER_INFO.*?\{', '^[ ]{4}\{ "(\w+)".*?\},\n', 'default');
# The ciphers and hashes that an encrypted PEM file may name.
keep('crypto/evp/c_allc.c', '^void openssl_add_all_ciphers_int', '^[ ]{4}EVP_add_cipher(?:_alias)?\(([^;]*?)(?:\(\))?\);\n',
    'EVP_aes_128_cbc', 'EVP_aes_192_cbc', 'EVP_aes_256_cbc');
keep('crypto/evp/c_alld.c', '^void openssl_add_all_digests_int', '^[ ]{4}EVP_add_digest(?:_alias)?\(([^;]*?)(?:\(\))?\);\n',
    'EVP_md5', 'EVP_sha1', 'EVP_sha256', 'EVP_sha384', 'EVP_sha512');
keep('crypto/asn1/standard_methods.h', '^static const EVP_PKEY_ASN1_METHOD', '^[ ]{4}&ossl_(.*?),\n',
    'rsa_asn1_meths[0]', 'rsa_asn1_meths[1]', 'eckey_asn1_meth', 'ecx25519_asn1_meth', 'ed25519_asn1_meth');
# P-256 by a table of 150 kB: one connection does it three times, and the general code takes under a millisecond.
replace('crypto/ec/build.info', '\becp_nistz256\.c \S+|\bECP_NISTZ256_ASM\b', '');
