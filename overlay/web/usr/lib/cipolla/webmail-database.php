<?php
// Makes the webmail's database before its first request: whole or not at all, so that neither a power cut nor two
// first requests at once leave half of it. (Roundcube's own way is table by table, whenever the file is empty.) One
// that an older image left is brought to this one's version.
const SCHEME = '/usr/share/roundcube/SQL';
$scheme = file_get_contents(SCHEME . '/sqlite.initial.sql');
preg_match("/'roundcube-version', '(\d+)'/", $scheme, $version) || throw new Exception('a scheme without a version');
$database = new PDO('sqlite:' . $argv[1]);
$database->setAttribute(PDO::ATTR_ERRMODE, PDO::ERRMODE_EXCEPTION);
$database->exec('BEGIN EXCLUSIVE');
if ($database->query("SELECT count(*) FROM sqlite_master WHERE name = 'system'")->fetchColumn() == 0) {
    $database->exec($scheme);
}
$database->exec('COMMIT');
$there = $database->query("SELECT value FROM system WHERE name = 'roundcube-version'")->fetchColumn();
$database = null;
if ($there !== $version[1]) {
    passthru('/usr/share/roundcube/bin/updatedb.sh --dir=' . SCHEME . ' --package=roundcube', $status);
    exit($status);
}
