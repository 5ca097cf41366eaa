;; A plugin as no compiler makes one. It passes every message, unless a payload has an exclamation mark: then it attacks, in one of
;; the places that are marked with double braces.
(component
  (import "rivven:connect/source@0.1.0" (instance $source
    (export "batch" (type $batch (sub resource)))
    (type $of-column (record (field "data" (list u8)) (field "ends" (list u32))))
    (export "column" (type $column (eq $of-column)))
    (export "[method]batch.payloads" (func (param "self" (borrow $batch)) (result $column)))))
  (alias export $source "batch" (type $batch))
  (alias export $source "column" (type $column))
  {{imports}}

  ;; Memory and its allocator, apart from the code, because what the code imports needs them.
  (core module $libc
    (memory (export "memory") 16)
    ;; 0 to 65535 are for what has its place: 1024 the result of `init`, 2048 the results, 2560 the column of payloads, 3072 and
    ;; more the verdicts, all of them 0: pass.
    (global $free (export "free") (mut i32) (i32.const 65536))
    (func (export "realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
      (local $at i32)
      {{realloc}}
      (local.set $at
        (i32.and
          (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
      (global.set $free (i32.add (local.get $at) (local.get $new)))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
  (core func $payloads (canon lower (func $source "[method]batch.payloads") (memory $memory) (realloc $realloc)))
  (core func $drop-batch (canon resource.drop $batch))
  {{lowered}}
  (core instance $host
    (export "payloads" (func $payloads))
    (export "drop-batch" (func $drop-batch))
    {{provided}})

  (core module $main
    (import "libc" "memory" (memory 16))
    (import "libc" "free" (global $free (mut i32)))
    (import "host" "payloads" (func $payloads (param i32 i32)))
    (import "host" "drop-batch" (func $drop-batch (param i32)))
    {{imported}}
    (func (export "init") (param i32 i32) (result i32)
      (i32.const 1024))
    (func (export "process") (param $batch i32) (result i32)
      (local $messages i32) (local $at i32) (local $end i32)
      (global.set $free (i32.const 65536))
      (memory.fill (i32.const 2048) (i32.const 0) (i32.const 512))
      (call $payloads (local.get $batch) (i32.const 2560))
      (local.set $at (i32.load (i32.const 2560)))
      (local.set $end (i32.add (local.get $at) (i32.load (i32.const 2564))))
      (local.set $messages (i32.load (i32.const 2572)))
      (i32.store (i32.const 2048) (i32.const 3072))
      (i32.store (i32.const 2052) (local.get $messages))
      (block $honest
        (loop $search
          (br_if $honest (i32.ge_u (local.get $at) (local.get $end)))
          (if (i32.ne (i32.load8_u (local.get $at)) (i32.const 0x21))
            (then
              (local.set $at (i32.add (local.get $at) (i32.const 1)))
              (br $search))))
        {{process}})
      (call $drop-batch (local.get $batch))
      (i32.const 2048))
    (func (export "post") (param $results i32)
      {{post}}))
  (core instance $main (instantiate $main
    (with "libc" (instance $libc))
    (with "host" (instance $host))))
  {{instances}}

  (type $verdict (enum "pass" "drop" "emit" "reject" "hold"))
  (type $results (record
    (field "verdicts" (list $verdict))
    (field "output-of" (list u32))
    (field "topics" $column)
    (field "keys" $column)
    (field "values" $column)
    (field "reasons" (list (tuple u32 string)))))
  (func $init (param "config" string) (result (result (error string)))
    (canon lift (core func $main "init") (memory $memory) (realloc $realloc)))
  (func $process (param "batch" (borrow $batch)) (result $results)
    (canon lift (core func $main "process") (memory $memory) (realloc $realloc)
      (post-return (core func $main "post"))))

  ;; An interface is exported with names for its types, which only an inner component can give.
  (component $interface
    (import "of-batch" (type $of-batch (sub resource)))
    (type $column (record (field "data" (list u8)) (field "ends" (list u32))))
    (import "of-column" (type $of-column (eq $column)))
    (type $verdict (enum "pass" "drop" "emit" "reject" "hold"))
    (import "of-verdict" (type $of-verdict (eq $verdict)))
    (type $results (record
      (field "verdicts" (list $of-verdict))
      (field "output-of" (list u32))
      (field "topics" $of-column)
      (field "keys" $of-column)
      (field "values" $of-column)
      (field "reasons" (list (tuple u32 string)))))
    (import "of-results" (type $of-results (eq $results)))
    (import "of-init" (func $init (param "config" string) (result (result (error string)))))
    (import "of-process" (func $process (param "batch" (borrow $of-batch)) (result $of-results)))
    (export $named-batch "batch" (type $of-batch))
    (export $named-column "column" (type $of-column))
    (export $named-verdict "verdict" (type $of-verdict))
    (type $of-names (record
      (field "verdicts" (list $named-verdict))
      (field "output-of" (list u32))
      (field "topics" $named-column)
      (field "keys" $named-column)
      (field "values" $named-column)
      (field "reasons" (list (tuple u32 string)))))
    (export $named-results "results" (type $of-names))
    (export "init" (func $init))
    (export "process" (func $process)
      (func (param "batch" (borrow $named-batch)) (result $named-results))))
  (instance $transform (instantiate $interface
    (with "of-batch" (type $batch))
    (with "of-column" (type $column))
    (with "of-verdict" (type $verdict))
    (with "of-results" (type $results))
    (with "of-init" (func $init))
    (with "of-process" (func $process))))
  (export "rivven:connect/transform@0.1.0" (instance $transform)))
