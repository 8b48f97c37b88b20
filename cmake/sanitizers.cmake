# AddressSanitizer and UndefinedBehaviorSanitizer (misaligned accesses too); Python needs libasan preloaded.
# bounds-strict: also an array's last dimension; a float too large for its integer is undefined too
set(sanitizer_options -O1 -g1 -fno-omit-frame-pointer -fsanitize-recover=all
                      -fsanitize=address,undefined,bounds-strict,float-cast-overflow)
set(sanitizer_link_options -fsanitize=address,undefined -static-libubsan)
