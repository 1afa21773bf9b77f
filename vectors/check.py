#!/usr/bin/env python3
"""Checks keyring.json, sealing.json and tokens.json with an implementation of its own, written from docs/spec alone:
Python and the package `cryptography` (48.0 or later, over OpenSSL 3.2 or later), no code of BlazeDB.

    pip install cryptography && python3 vectors/check.py

With Python 3.14 or later it unpacks the packed values as well.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

try:
    from compression import zstd
except ImportError:  # Python before 3.14
    zstd = None

HERE = pathlib.Path(__file__).parent
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
DEVICE, INVITATION, RECOVERY, PASSPHRASE = 1, 2, 3, 4


def load(name):
    return json.loads((HERE / name).read_text())


def extract(salt, secret):
    return hmac.digest(salt or bytes(32), secret, "sha256")


def expand(key, info, length=32):
    out, block, at = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(key, block + info + bytes([at]), "sha256")
        out, at = out + block, at + 1
    return out[:length]


def hkdf(secret, info, salt=b""):
    return expand(extract(salt, secret), info)


def private(number):
    return ec.derive_private_key(int.from_bytes(number, "big"), ec.SECP256R1())


def point(key):
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def from_point(raw):
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)


def fits(candidate):
    return 0 < int.from_bytes(candidate, "big") < ORDER


# HPKE, RFC 9180: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, base mode.

KEM = b"KEM" + struct.pack(">H", 0x0010)
SUITE = b"HPKE" + struct.pack(">HHH", 0x0010, 0x0001, 0x0002)


def labeled_extract(suite, salt, label, secret):
    return extract(salt, b"HPKE-v1" + suite + label + secret)


def labeled_expand(suite, key, label, info, length):
    return expand(key, struct.pack(">H", length) + b"HPKE-v1" + suite + label + info, length)


def derive_key_pair(secret):
    prk = labeled_extract(KEM, b"", b"dkp_prk", secret)
    candidates = (labeled_expand(KEM, prk, b"candidate", bytes([n]), 32) for n in range(256))
    return private(next(filter(fits, candidates)))


def hpke_open(key, wrapped, info, associated):
    encapsulated, sealed = wrapped[:65], wrapped[65:]
    shared = key.exchange(ec.ECDH(), from_point(encapsulated))
    prk = labeled_extract(KEM, b"", b"eae_prk", shared)
    shared = labeled_expand(KEM, prk, b"shared_secret", encapsulated + point(key.public_key()), 32)
    context = b"\0" + labeled_extract(SUITE, b"", b"psk_id_hash", b"")
    context += labeled_extract(SUITE, b"", b"info_hash", info)
    secret = labeled_extract(SUITE, shared, b"secret", b"")
    aead = AESGCM(labeled_expand(SUITE, secret, b"key", context, 32))
    return aead.decrypt(labeled_expand(SUITE, secret, b"base_nonce", context, 12), sealed, associated)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        taken = self.data[self.at : self.at + count]
        assert len(taken) == count, "the statement is cut off"
        self.at += count
        return taken

    def varint(self):
        number, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    def text(self):
        return self.take(self.varint())

    def member(self):
        kind, history = self.take(2)
        name, sign, wrap = self.text(), self.take(65), self.take(65)
        return {"kind": kind, "history": history, "name": name, "sign": sign, "wrap": wrap, "id": member_id(sign, wrap)}

    def rule(self):
        return self.take(1)[0], [self.text() for _ in range(self.varint())]

    def wraps(self):
        return {self.take(16): self.text() for _ in range(self.varint())}

    def epoch(self):
        return {"number": self.varint(), "wraps": self.wraps(), "previous": self.text()}


def member_id(sign, wrap):
    return hashlib.sha256(sign + wrap).digest()[:16]


class Secret:
    """A member, by its secret."""

    def __init__(self, secret):
        self.secret = secret
        candidates = (hkdf(secret, b"blazedb keyring 1 sign", bytes([n])) for n in range(16))
        self.sign = private(next(filter(fits, candidates)))
        self.wrap = derive_key_pair(hkdf(secret, b"blazedb keyring 1 wrap"))
        self.id = member_id(point(self.sign.public_key()), point(self.wrap.public_key()))


class Chain:
    """A keyring, statement by statement."""

    def __init__(self):
        self.head, self.members, self.epochs, self.first = bytes(32), {}, {}, None
        self.database = self.salt = None
        self.acts, self.proofs = set(), {}

    def begin_epoch(self, epoch, members):
        assert epoch["number"] == max(self.epochs, default=0) + 1
        assert set(epoch["wraps"]) == set(members), "keys for exactly the members"
        self.epochs[epoch["number"]] = epoch

    def add(self, statement):
        reader = Reader(statement)
        parent, author, _at, act = reader.take(32), reader.take(16), reader.varint(), reader.take(1)[0]
        assert parent == self.head
        self.acts.add(act)
        before = dict(self.members)
        if act == 1:
            self.database, self.salt = reader.take(16), reader.text()
            member = reader.member()
            assert member["id"] == author
            before = self.members = {author: member}
            reader.rule()
            self.begin_epoch(reader.epoch(), self.members)
        elif act == 2:
            member = reader.member()
            self.proofs[member["id"]] = reader.take(32)
            self.members[member["id"]] = member
            if reader.take(1)[0] == 0:
                self.epochs[max(self.epochs)]["wraps"][member["id"]] = reader.text()
            else:
                self.begin_epoch(reader.epoch(), self.members)
        elif act == 3:
            member = reader.member()
            for _ in range(reader.varint()):
                number = reader.varint()
                self.epochs[number]["wraps"][member["id"]] = reader.text()
            self.members[member["id"]] = member
            if before[author]["kind"] == INVITATION:
                del self.members[author]
        elif act == 4:
            for _ in range(reader.varint()):
                del self.members[reader.take(16)]
            self.begin_epoch(reader.epoch(), self.members)
        elif act == 5:
            self.begin_epoch(reader.epoch(), self.members)
        elif act == 6:
            reader.rule()
        elif act == 7:
            [reader.take(16) for _ in range(reader.varint())]
        elif act == 8:
            number = reader.varint()
            assert number == max(self.epochs) and "dictionary" not in self.epochs[number]
            self.epochs[number]["dictionary"] = reader.text()
        else:
            raise AssertionError(f"act {act}")
        said, signature = statement[: reader.at], reader.take(64)
        assert reader.at == len(statement), "nothing is left over"
        numbers = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        key = from_point(before[author]["sign"])
        signed = b"blazedb keyring statement 1" + said
        key.verify(utils.encode_dss_signature(*numbers), signed, ec.ECDSA(hashes.SHA256()))
        self.head = hashlib.sha256(statement).digest()
        self.first = self.first or self.head

    def unlock(self, member):
        """The keys that a member has: of names, and of values by epoch."""
        names, values, history = None, {}, {}
        for number in sorted(self.epochs, reverse=True):
            epoch = self.epochs[number]
            if member.id in epoch["wraps"]:
                info = b"blazedb keyring 1 wrap" + self.database + struct.pack(">I", number)
                keys = hpke_open(member.wrap, epoch["wraps"][member.id], info, member.id)
                names, values[number], history[number] = keys[:32], keys[32:64], keys[64:]
            if history.get(number) and epoch["previous"]:
                key = hkdf(history[number], b"blazedb keyring 1 history", self.database)
                older = AESGCMSIV(key).decrypt(bytes(12), epoch["previous"], struct.pack(">I", number))
                values[number - 1], history[number - 1] = older[:32], older[32:]
        return names, values


def check_keyring():
    file, chain = load("keyring.json"), Chain()
    statements = [bytes.fromhex(statement) for statement in file["statements"]]
    for statement in statements:
        chain.add(statement)
    assert chain.acts == set(range(1, 9)), "every act occurs"
    last = max(chain.epochs)
    key = hkdf(bytes.fromhex(file["members"][0]["values"][str(last)]), b"blazedb keyring 1 dictionary", chain.database)
    sealed = chain.epochs[last]["dictionary"]
    assert AESGCMSIV(key).decrypt(bytes(12), sealed, struct.pack(">I", last)) == b"what records have in common"
    assert (chain.head.hex(), chain.first.hex()) == (file["head"], file["fingerprint"])
    assert chain.database.hex() == file["keyring"]
    for known in file["members"]:
        member = Secret(bytes.fromhex(known["secret"]))
        assert member.id.hex() == known["id"]
        assert point(member.sign.public_key()).hex() == known["sign_key"]
        assert point(member.wrap.public_key()).hex() == known["wrap_key"]
        names, values = chain.unlock(member)
        assert names.hex() == known["names"]
        assert {str(number): value.hex() for number, value in values.items()} == known["values"], known["id"]
    codes = file["codes"]
    random = bytes.fromhex(codes["invitation"]["random"])
    digits = (random + hashlib.sha256(random).digest()[:2]).hex()
    grouped = "-".join(digits[at : at + 6] for at in range(0, len(digits), 6))
    assert codes["invitation"]["code"] == "blzi-" + grouped
    entropy = bytes.fromhex(codes["recovery"]["entropy"])
    passphrase, salt = codes["passphrase"]["passphrase"].encode(), bytes.fromhex(codes["passphrase"]["salt"])
    stretched = Argon2id(salt=salt, length=32, iterations=3, lanes=1, memory_cost=64 << 10).derive(passphrase)
    for kind, secret, info in [
        ("invitation", random + bytes(16), b"blazedb invitation 1"),
        ("recovery", entropy, b"blazedb recovery 1"),
        ("passphrase", stretched, b"blazedb passphrase 1"),
    ]:
        member = Secret(hkdf(secret, info))
        assert member.id.hex() == codes[kind]["member"], kind
        if member.id in chain.proofs:
            proof = hmac.digest(hkdf(member.secret, b"blazedb keyring 1 root"), chain.first, "sha256")
            assert proof == chain.proofs[member.id], kind
    spoilt = bytearray(statements[0])
    spoilt[60] ^= 1
    try:
        Chain().add(bytes(spoilt))
    except (AssertionError, InvalidSignature, ValueError):
        return f"{len(statements)} statements, {len(file['members'])} members, {len(codes)} codes"
    raise AssertionError("a spoilt statement passes")


def replica(number):
    return bytes([number + 1]) * 16


def stamp(time, writer):
    return struct.pack(">Q", time) + replica(writer)


def record_id(millis, filler):
    uuid = bytearray(millis.to_bytes(6, "big") + bytes([filler]) * 10)
    uuid[6], uuid[8] = uuid[6] & 15 | 0x70, uuid[8] & 63 | 0x80
    return bytes(uuid)


def check_sealing():
    file, keyring = load("sealing.json"), bytes([7]) * 16
    names = AESGCMSIV(hkdf(bytes([9]) * 32, b"blazedb seal 1 names", keyring))
    values = AESGCMSIV(hkdf(bytes([1]) * 32, b"blazedb seal 1 values", keyring))
    nonces = hkdf(bytes([1]) * 32, b"blazedb seal 1 nonces", keyring)

    def name(text):
        plain = bytes([len(text)]) + text.encode()
        sealed = names.encrypt(bytes(12), plain + bytes(-len(plain) % 16), keyring)
        return sealed[-16:], "$s." + base64.urlsafe_b64encode(sealed[-16:] + sealed[:-16]).decode().rstrip("=")

    def opened(hexadecimal, context):
        nonce = hmac.digest(nonces, context, "sha256")[:12]
        return values.decrypt(nonce, bytes.fromhex(hexadecimal), context)

    def string(text):
        return bytes([len(text)]) + text.encode()

    for case in file["names"]:
        assert name(case["name"]) == (bytes.fromhex(case["tag"]), case["sealed"])
    tags = {text: name(text)[0] for text in "ab"}
    epoch, cells = struct.pack(">I", 1), file["cells"]
    # One write gave `a` and `b` a value: one group, ascending by tag.
    plain = {"b": "MARKER-b", "a": "MARKER-large " * 3}
    order = sorted(plain, key=tags.get)
    context = b"blazedb group 1" + keyring + record_id(1, 3) + stamp(5, 0) + epoch
    context += hashlib.sha256(b"".join(tags[field] + b"\0" for field in order)).digest()
    assert cells["inserted.a"] == cells["inserted.b"]
    assert opened(cells["inserted.a"], context) == b"\0" + b"".join(string(plain[field]) for field in order)
    assert bytes.fromhex(cells["inserted.c"]) == string("ios"), "a routing field stays readable"
    # A counter and a set; the vectors seal all cells under the first record's id.
    other = b"blazedb mergeable 1" + keyring + record_id(1, 3)
    context = other + tags["a"] + b"\2" + epoch + b"\0" + stamp(7, 2)
    assert opened(cells["changed.a"], context) == b"\1" + replica(2) + b"\5\0"
    context = other + tags["b"] + b"\3" + epoch + b"\1" + stamp(6, 1) + stamp(6, 1)
    assert opened(cells["changed.b"], context) == b"\1" + string("MARKER-element") + b"\1" + stamp(6, 1)
    packed = {name: bytes.fromhex(text) for name, text in file["packed"].items() if name != "about"}
    nonces = hkdf(bytes([2]) * 32, b"blazedb seal 1 nonces", keyring)
    values = AESGCMSIV(hkdf(bytes([2]) * 32, b"blazedb seal 1 values", keyring))
    for number, name in enumerate(["frame", "short", "long"], start=1):
        form = opened(packed[f"sealed {name}"].hex(), packed["context"])
        assert form[0] == number and len(form) < len(packed[f"values {name}"])
        frame = form[1:]
        if number > 1:
            # The only block of a frame: what was left out is its descriptor and the head of a last, compressed block.
            size, block = frame[:number - 1], frame[number - 1:]
            head = struct.pack("<I", len(block) << 3 | 2 << 1 | 1)[:3]
            frame = (b"\x20" if number == 2 else b"\x60") + size + head + block
        if zstd:
            dictionary = zstd.ZstdDict(packed["dictionary"], is_raw=True)
            unpacked = zstd.decompress(bytes.fromhex("28b52ffd") + frame, zstd_dict=dictionary)
            assert b"\0" + unpacked == packed[f"values {name}"]
    return f"{len(file['names'])} name, {len(cells)} cells, packed values" + ("" if zstd else " (not unpacked: no zstd here)")


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def check_tokens():
    file = load("tokens.json")
    public = bytes.fromhex(file["node"]["public_key"])
    x, y = (base64.urlsafe_b64encode(half).decode().rstrip("=") for half in (public[1:33], public[33:]))
    jwk = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(jwk.encode()).digest()).decode().rstrip("=")
    assert thumbprint == file["node"]["thumbprint"]
    digest = base64.b32encode(hashlib.sha256(public).digest()).decode().rstrip("=").lower()
    assert file["node"]["fingerprint"] == "blz1-" + "-".join(digest[at : at + 4] for at in range(0, len(digest), 4))
    for case in file["tokens"]:
        signed, _, signature = case["token"].rpartition(".")
        header, claims = (json.loads(unpadded(part)) for part in signed.split("."))
        signature = unpadded(signature)
        if header["alg"] == "ES256":
            key = serialization.load_pem_public_key(case["issuer_key"].encode())
            numbers = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
            key.verify(utils.encode_dss_signature(*numbers), signed.encode(), ec.ECDSA(hashes.SHA256()))
        else:
            key = case["issuer_key"]
            key = json.loads(key) if isinstance(key, str) else key
            key = ed25519.Ed25519PublicKey.from_public_bytes(unpadded(key["x"]))
            key.verify(signature, signed.encode())
        assert (claims["sub"], claims["exp"]) == (case["user"]["id"], case["expires"])
        bound = {"jkt": thumbprint, "blz": file["node"]["fingerprint"]}
        assert claims["cnf"] and all(bound[kind] == value for kind, value in claims["cnf"].items())
    return f"{len(file['tokens'])} tokens"


if __name__ == "__main__":
    for what, check in [("keyring", check_keyring), ("sealing", check_sealing), ("tokens", check_tokens)]:
        print(f"{what}: {check()}: ok")
