 J€^oGµNGBYlG§CG‚•GÝÜG¼wGÛ[¯G
ß·Fš´G
ßFÆ¬jGäØFª¤GOäøF
5ˆG^ÈG®ÉF&ŒrGTÀ¨Ffõ¢Fð“õFNü·Fµ¦eG¸ä£GÜìF&#G^kG‹PGÿŽvGÑGökÙF^oGµNGBYlG§CG‚•GÝÜG¼wGÛ[¯G
ß·Fš´G
ßFÆ¬jGäØFª¤GOäøF
5ˆG^ÈG®ÉF&ŒrGTÀ¨Ffõ¢Fð“õFNü·Fµ¦eG¸ä£GÜìF&#G^kG‹PGÿŽvGÑGökÙF^oGµNGBYlG§CG‚•GÝÜG¼wGÛ[¯G
ß·Fš´G
ßFÆ¬jGäØFª¤GOäøF
5ˆG^ÈG®ÉF&ŒrGTÀ¨Ffõ¢Fð“õFNü·Fµ¦eG¸ä£GÜìF&#G^kG‹PGÿŽvGÑGökÙF^oGµNGBYlG§CG‚•GÝÜG¼wGÛ[¯G
ß·Fš´G
ßFÆ¬jGäØFª¤GOäøF
5ˆG^ÈG®ÉF&ŒrGTÀ¨Ffõ¢Fð“õFNü·Fµ¦eG¸ä£GÜìF&#G^kG‹PGÿŽvGÑGökÙF